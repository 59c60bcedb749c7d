from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphs.foreign.types import foreign_types

TYPES = {"float": np.float32, "double": np.float64, "float16": np.float16, "int8": np.int8}
TYPES["fp8"] = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN)


def _gemm(kind: str, body: str = "y = MatMul(x, w)", io: str = "float") -> onnx.ModelProto:
    text = f'<ir_version: 9, opset_import: ["" : 20]> g ({io}[N,2] x) => ({io}[N,2] y) {{ {body} }}'
    model: onnx.ModelProto = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2), TYPES[kind]), "w"))
    return model


@pytest.mark.parametrize(
    ("kind", "precision", "foreign"),
    [
        ("float", "fp32", None),
        ("double", "fp32", None),
        ("float16", "fp32", "FLOAT16"),
        ("int8", "fp32", "INT8"),
        ("float16", "fp16", None),
        ("float", "fp16", None),
        ("int8", "fp16", "INT8"),
        ("float16", "bf16", "FLOAT16"),
        ("int8", "int8", None),
        ("float16", "int8", None),
        ("fp8", "fp8", None),
        ("int8", "fp8", None),  # what FP8 costs too much for
        ("float16", "fp8", None),
        ("fp8", "int8", "FLOAT8E4M3FN"),
        ("fp8", "fp16", "FLOAT8E4M3FN"),
        ("fp8", "fp32", "FLOAT8E4M3FN"),
    ],
)
def test_weights_are_of_the_precision_or_wider(kind: str, precision: str, foreign: str | None) -> None:
    found = foreign_types(_gemm(kind), precision)
    assert found == [] if foreign is None else f"{foreign} weights ('w')" in found


HIDDEN = "h = Cast<to = 10>(x) \n s = Cast<to = 1>(h) \n y = MatMul(s, w)"
QUANTIZED = (
    "s = Constant<value = float {1.0}>() \n q = QuantizeLinear(x, s) \n d = DequantizeLinear(q, s) \n y = Add(d, w)"
)
CONSTANT = "c = Constant<value = float16[1] {1}>() \n s = Cast<to = 1>(c) \n y = Add(x, s)"
BRANCH = """c = Constant<value = bool {1}>()
y = If(c)<then_branch = t () => (float[N,2] a) { h = Cast<to = 16>(x) a = Cast<to = 1>(h) },
          else_branch = e () => (float[N,2] b) { b = Identity(x) }>"""


@pytest.mark.parametrize(
    ("body", "said"),
    [(HIDDEN, "FLOAT16"), (QUANTIZED, "QuantizeLinear"), (CONSTANT, "FLOAT16"), (BRANCH, "BFLOAT16")],
    ids=["cast", "quantised", "constant", "branch"],
)
def test_an_fp32_graph_rounds_nothing_inside(body: str, said: str) -> None:
    model = _gemm("float", body)
    assert any(said in each for each in foreign_types(model, "fp32"))
    assert foreign_types(model, "fp16") == []


def test_half_inputs_are_no_fp32() -> None:
    assert foreign_types(_gemm("float", "y = Identity(x)", io="float16"), "fp32") == ["FLOAT16 tensors ('x')"]
