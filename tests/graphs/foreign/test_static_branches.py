"""Branches over sizes are taken; branches over the batch and over data stay, and are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from graphs.errors import ExportError
from graphs.foreign.brought_in import read_foreign
from graphs.foreign.static_branches import without_static_branches


def _model(condition: str) -> onnx.ModelProto:
    text = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[B, 3] x) => (float[B, 3] y)
    <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] three = {{3}}, float limit = {{0.0}}>
    {{
        s = Shape(x)
        {condition}
        y = If (c) <
            then_branch = t () => (float[B, 3] a) {{ w = Add(x, x) a = Neg(w) }},
            else_branch = e () => (float[B, 3] b) {{ b = Identity(x) }}
        >
    }}"""
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize(("op", "expected"), [("Equal", -2.0), ("Less", 1.0)])
def test_a_branch_over_a_size_is_taken(op: str, expected: float) -> None:
    model = _model(f"d = Gather(s, one) v = {op}(d, three) c = Squeeze(v)")
    x = np.ones((2, 3), np.float32)
    before = ReferenceEvaluator(model).run(None, {"x": x})[0]
    made = without_static_branches(model)
    assert all(node.op_type != "If" for node in made.graph.node)
    onnx.checker.check_model(made)
    found = ReferenceEvaluator(made).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, before)
    assert found[0, 0] == expected


@pytest.mark.parametrize(
    "condition",
    [
        "d = Gather(s, zero) v = Equal(d, one) c = Squeeze(v)",
        "m = ReduceMax<keepdims=0>(x) c = Greater(m, limit)",
        "d = Gather(s, three) v = Equal(d, one) c = Squeeze(v)",
    ],
    ids=["the batch", "data", "an axis that is not there"],
)
def test_a_branch_over_anything_else_is_refused(condition: str, tmp_path: Path) -> None:
    onnx.save(_model(condition), tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=r"If .* cannot become static"):
        read_foreign(tmp_path / "m.onnx")


def test_sizes_are_checked_before_anything_is_evaluated(tmp_path: Path) -> None:
    vast = "big = ConstantOfShape(vast) n = ReduceMax<keepdims=0>(big) c = Greater(n, limit)"
    model = _model(vast)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2**40]), "vast"))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="elements"):
        read_foreign(tmp_path / "m.onnx")
