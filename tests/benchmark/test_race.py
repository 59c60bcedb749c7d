"""Comparisons: figures from known times, and graphs that are really run side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dsr_export.benchmark.race import _timings
from dsr_export.benchmark.variants import model_variants, switched_off
from dsr_export.families import load_subject
from graphs.files import load_model
from tests.conftest import Cli


def test_ratios_are_taken_within_a_round() -> None:
    """The machine gets ten times slower half-way; the ratio does not notice."""
    milliseconds = np.array([[1.0, 2.0], [1.0, 2.0], [10.0, 20.0], [10.0, 20.0]])
    first, second = _timings(["a", "b"], milliseconds)
    assert (first.ratio, first.ratio_low, first.ratio_high) == (1.0, 1.0, 1.0)
    assert (second.ratio, second.ratio_low, second.ratio_high) == (2.0, 2.0, 2.0)
    assert second.median_ms == 11.0


def test_bundles_are_compared(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    other = shutil.copytree(denoiser_bundle, tmp_path / "other.dsr")
    done = cli("bench", denoiser_bundle, other, "--rounds", "3", "--warmup", "1", "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert [row["name"] for row in result["timings"]] == ["denoiser.dsr", "other.dsr"]
    assert result["timings"][0]["ratio"] == 1.0
    assert all(row["median_ms"] > 0 for row in result["timings"])


@pytest.mark.slow
def test_variants_differ_in_their_run_time_parts_alone(tmp_path: Path) -> None:
    subject = load_subject("digits-outliers")
    variants = {each.name: load_model(each.model) for each in model_variants(subject, tmp_path)}
    assert list(variants) == ["raw", "plain", "dsr"]
    medians = {name: sum(n.op_type == "TopK" for n in model.graph.node) for name, model in variants.items()}
    assert medians == {"raw": 0, "plain": 0, "dsr": 4}  # two sites of two rounds
    assert all(part.enabled for part in subject.module.modules() if hasattr(part, "enabled"))


def test_parts_come_back_after_an_error() -> None:
    module = load_subject("digits").module
    with pytest.raises(RuntimeError), switched_off(module):
        raise RuntimeError
    assert all(part.enabled for part in module.modules() if hasattr(part, "enabled"))


@pytest.mark.parametrize(
    ("what", "said"), [(["digts"], "did you mean 'digits'"), (["missing.onnx", "b.onnx"], "missing.onnx")]
)
def test_what_cannot_be_compared_is_refused(what: list[str], said: str, cli: Cli) -> None:
    done = cli("bench", *what)
    assert done.code == 1
    assert said in done.err


def test_one_bundle_is_no_comparison(denoiser_bundle: Path, cli: Cli) -> None:
    done = cli("bench", denoiser_bundle)
    assert done.code == 1
    assert "two graphs or more" in done.err
