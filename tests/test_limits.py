"""Values beyond any use are refused before anything is done for them, with the limit named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dsr_export.backends.labels import LabelledRunner
from dsr_export.cli import cli
from dsr_export.config import BatchRange, ExportConfig, ModelRequest
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.errors import ExportError
from dsr_export.sampling import SamplerSpec


@pytest.mark.parametrize(
    "words",
    [
        ("build", "--registers", "1000000000"),
        ("build", "--trajectory-steps", "1000000000"),
        ("build", "--calibration-images", "1000000000000"),
        ("build", "--calibration-steps", "1000000000"),
        ("sample", "x", "--steps", "1000000000"),
        ("sample", "x", "--count", "1000000000"),
        ("sample", "x", "--seed", "-1"),
        ("diagnose", "--registers", "1000000000"),
        ("bench", "--threads", "1000000000"),
        ("bench", "--rounds", "1000000000"),
        ("bench", "--batch", "1000000000"),
    ],
)
def test_options_have_limits(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, list(words))
    assert result.exit_code == 2
    assert "is not in the range" in result.output


@pytest.mark.parametrize("text", ["1,1,1e20", "1,1,100000", "1,1," + "9" * 5000, "1,1,100000000000000000000"])
def test_batches_have_limits(text: str) -> None:
    with pytest.raises(ExportError) as caught:
        BatchRange.parse(text)
    assert "65536" in str(caught.value.hint)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "make",
    [
        lambda: ModelRequest(registers=10**9),
        lambda: ExportConfig(registers=10**9),
        lambda: ExportConfig(trajectory_steps=10**9),
        lambda: Int8Options(steps=10**9),
        lambda: SamplerSpec(num_steps=10**9),
        lambda: Int8Options(data="random:" + "9" * 5000).seed,
    ],
)
def test_python_has_the_same_limits(make: Any) -> None:
    with pytest.raises(ExportError) as caught:
        make()
    assert caught.value.hint


class _Runner:
    name = "none"

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs


@pytest.mark.parametrize("label", [-1, 11, 2**40])
def test_labels_that_no_model_has_are_refused(label: int) -> None:
    runner = LabelledRunner(_Runner(), 10)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=f"holds the label {label}") as caught:
        runner.infer({"y": np.array([0, label])})
    assert caught.value.hint == "use 0 to 10"
    assert runner.infer({"y": np.array([0, 10])})["y"].tolist() == [0, 10]
