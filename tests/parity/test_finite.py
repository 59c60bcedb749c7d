"""Whose NaN it is: the reference is asked first, and what our graph made is never said to be the model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsr_export.errors import ExportError
from dsr_export.parity.finite import check_graph, check_reference
from dsr_export.parity.golden.vectors import Case, Golden, ReferenceTrajectory
from graphs.artifacts import TensorSpec

SPECS = (TensorSpec(name="x", dtype="float32", shape=("batch", 4)),)


def _golden(value: float, state: float = 0.0, *, everywhere: bool = False) -> Golden:
    made = np.zeros((2, 4), np.float32)
    made[1 - everywhere :, 2 - 2 * everywhere :] = value
    walk = ReferenceTrajectory(np.zeros((1, 4)), np.zeros(1, np.int64), np.full((3, 1, 4), state))
    return Golden({2: Case({"x": made}, {"y": made})}, walk)


@pytest.mark.parametrize("value", [1.0, np.nan, -np.inf])
def test_a_reference_that_makes_numbers_passes(value: float) -> None:
    """A row with nothing to attend to is NaN in PyTorch; the others can be compared."""
    check_reference(_golden(value))


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "nan"), (-np.inf, "inf")])
def test_what_the_reference_makes_itself_is_said_to_be_its_own(value: float, kind: str) -> None:
    own = rf"reference itself \(torch-fp32\) makes {kind} in"
    with pytest.raises(ExportError, match=f"{own} all of its output 'y'.*8 of 8"):
        check_reference(_golden(value, everywhere=True))
    with pytest.raises(ExportError, match=f"{own} the state after sampling step 1"):
        check_reference(_golden(0.0, value))


def _ratio(folder: Path) -> Path:
    """y = where(isnan(-inf * 0 * x), x / (x - x), 1): the first NaN is selected away, the second stays."""
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["nothing"], name="a/Mul"),
        helper.make_node("Mul", ["nothing", "mask"], ["masked"], name="a/Mul_1"),
        helper.make_node("IsNaN", ["masked"], ["flag"], name="a/IsNaN"),
        helper.make_node("Sub", ["x", "x"], ["difference"], name="b/Sub"),
        helper.make_node("Div", ["difference", "difference"], ["ratio"], name="b/Div"),
        helper.make_node("Where", ["flag", "ratio", "one"], ["y"], name="b/Where"),
    ]
    constants = {"zero": 0.0, "mask": -np.inf, "one": 1.0}
    initializers = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "m.onnx")
    return folder / "m.onnx"


def test_a_fault_of_the_graph_is_named_by_its_first_tensor(tmp_path: Path) -> None:
    x = np.ones((2, 4), np.float32)
    check_graph(_ratio(tmp_path), {"x": x}, {"y": x}, SPECS)
    with pytest.raises(
        ExportError, match="the FP32 graph makes nan in 'masked'.*output 'y'.*reference has none"
    ) as error:
        check_graph(_ratio(tmp_path), {"x": x}, {"y": x * np.nan}, SPECS)
    assert "fault of the export and not of the model" in str(error.value.hint)


def test_nan_where_the_reference_has_nan_is_right(tmp_path: Path) -> None:
    x = np.ones((2, 4), np.float32)
    reference, made = x.copy(), x.copy()
    reference[1], made[1] = np.nan, np.nan
    check_graph(_ratio(tmp_path), {"x": x}, {"y": made}, SPECS, {"y": reference})
    made[0, 0] = np.nan
    with pytest.raises(ExportError, match="the FP32 graph makes nan"):
        check_graph(_ratio(tmp_path), {"x": x}, {"y": made}, SPECS, {"y": reference})


def test_a_graph_of_another_shape_is_said_to_be_one(tmp_path: Path) -> None:
    """A program brought in may say other shapes than it makes: what is traced by them is another model."""
    x = np.ones((2, 4), np.float32)
    with pytest.raises(ExportError, match=r"the output 'y' in the shape \[4, 2\], the reference in \[2, 4\]"):
        check_graph(_ratio(tmp_path), {"x": x}, {"y": x.reshape(4, 2)}, SPECS, {"y": x})
