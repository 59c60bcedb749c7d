"""The second row of lone GEMMs: nothing else changes, and no axis is left for the runtime to name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from graphs.artifacts import TensorSpec
from graphs.mixed_precision.lone_rows import pad_lone_rows

GEMMS = {"MatMul": "y = MatMul(x, w)", "Gemm": "y = Gemm<transB=1>(x, v)"}


def _model(body: str) -> onnx.ModelProto:
    text = f"""<ir_version: 10, opset_import: ["" : 20]> g (float[batch,2] x) => (float[batch,3] z)
        <float[2,3] w = {{1, 2, 3, 4, 5, 6}}, float[3,2] v = {{1, 4, 2, 5, 3, 6}}> {{ {body} z = Neg(y) }}"""
    return onnx.shape_inference.infer_shapes(parser.parse_model(text))


@pytest.mark.parametrize("op", GEMMS)
def test_shapes_around_a_padded_gemm_are_said_and_true(op: str) -> None:
    padded = pad_lone_rows(_model(GEMMS[op]))
    assert [node.op_type for node in padded.graph.node] == ["Pad", op, "Slice", "Neg"]
    said = {value.name for value in padded.graph.value_info}
    assert said >= {name for node in padded.graph.node[:3] for name in node.output}
    onnx.shape_inference.infer_shapes(padded, strict_mode=True)
    with OnnxRuntimeRunner(
        padded.SerializeToString(), inputs=[TensorSpec(name="x", dtype="float32", shape=("batch", 2))]
    ) as runner:
        made = runner.infer({"x": np.array([[1, 2]], np.float32)})["z"]
    np.testing.assert_array_equal(made, [[-9, -12, -15]])


def test_rows_of_another_number_than_the_batch_have_a_size_of_their_own() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[batch,2] x, float[rows,2] flat) => (float[batch,3] z, float[rows,3] f)
        <float[2,3] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w)  z = Neg(y)  g = MatMul(flat, w)  f = Neg(g) }"""
    padded = pad_lone_rows(onnx.shape_inference.infer_shapes(parser.parse_model(text)))
    specs = [
        TensorSpec(name=name, dtype="float32", shape=(axis, 2)) for name, axis in (("x", "batch"), ("flat", "rows"))
    ]
    with OnnxRuntimeRunner(padded.SerializeToString(), inputs=specs) as runner:
        made = runner.infer({"x": np.ones((2, 2), np.float32), "flat": np.ones((7, 2), np.float32)})
    assert (made["z"].shape, made["f"].shape) == ((2, 3), (7, 3))
