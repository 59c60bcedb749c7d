from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dsr_export.errors import ExportError
from dsr_export.spec import DsrSpec
from dsr_export.subject import Subject
from dsr_export.subjects.torch_runner import TorchRunner
from graphs.artifacts import TensorSpec


class Labelled(nn.Module):
    """`x [N, 4]`, `y [N] int64` -> what `shape_result` makes of `x * weight + y`."""

    def __init__(self, shape_result: Any = lambda out: out) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        self.shape_result = shape_result

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.shape_result(x * self.weight + y[:, None])


def subject(module: nn.Module, *outputs: str) -> Subject:
    return Subject(
        name="labelled",
        family="test",
        module=module,
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=("batch", 4)),
            TensorSpec(name="y", dtype="int64", shape=("batch",)),
        ),
        outputs=tuple(TensorSpec(name=name, dtype="float32", shape=("batch", 4)) for name in outputs or ("out",)),
        dsr=DsrSpec(),
    )


INPUTS = {"y": np.array([5, 7]), "x": np.ones((2, 4), np.float32)}
EXPECTED = np.array([[6, 7, 8, 9], [8, 9, 10, 11]], np.float32)


def test_inputs_go_by_name_and_outputs_come_by_name() -> None:
    with TorchRunner(subject(Labelled().eval())) as runner:
        made = runner.infer(INPUTS)
    assert runner.name == "torch" and list(made) == ["out"]
    np.testing.assert_array_equal(made["out"], EXPECTED)
    assert made["out"].dtype == np.float32


@pytest.mark.parametrize("result", [lambda out: (out, -out), lambda out: {"b": -out, "a": out}], ids=["tuple", "dict"])
def test_several_outputs(result: Any) -> None:
    made = TorchRunner(subject(Labelled(result).eval(), "a", "b")).infer(INPUTS)
    np.testing.assert_array_equal(made["a"], EXPECTED)
    np.testing.assert_array_equal(made["b"], -EXPECTED)


def test_the_callers_arrays_are_left_alone() -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.mul_(y[:, None])

    inputs = {name: array.copy() for name, array in INPUTS.items()}
    TorchRunner(subject(InPlace().eval())).infer(inputs)
    np.testing.assert_array_equal(inputs["x"], INPUTS["x"])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda out: (out, out), "returns 2 outputs, and 1 are declared"),
        (lambda out: out.half(), "is torch.float16, and the reference is FP32"),
        (lambda out: (None,), "is NoneType, not a tensor"),
    ],
)
def test_results_that_are_no_fp32_reference_are_refused(result: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        TorchRunner(subject(Labelled(result).eval())).infer(INPUTS)


def test_wrong_inputs_and_training_mode_are_refused() -> None:
    with pytest.raises(ExportError, match="'y' is missing"):
        TorchRunner(subject(Labelled().eval())).infer({"x": INPUTS["x"]})
    with pytest.raises(ExportError, match="training mode"):
        TorchRunner(subject(Labelled().train()))
