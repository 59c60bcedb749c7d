"""How many rows of a sample a GEMM reads: tokens, one of a condition, or what only the whole batch knows."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs
import pytest

from graphs.weights.gemms import weight_gemms

CASES = {
    "tokens": ("float[B,16,8] x", "out = MatMul(x, w)", [16]),
    "a condition": ("float[B,8] x", "out = MatMul(x, w)", [1]),
    "a condition of a fixed batch": ("float[2,8] x", "out = MatMul(x, w)", [1]),
    "flattened": ("float[B,16,8] x", "f = Reshape(x, flat) g = MatMul(f, w) h = Gelu(g) out = MatMul(h, w)", [16]),
    "flattened, of a fixed batch": ("float[2,16,8] x", "f = Reshape(x, flat) h = Gelu(f) out = MatMul(h, w)", []),
    "heads": ("float[B,2,16,4] x", "t = Transpose<perm=[0,2,1,3]>(x) f = Reshape(t, flat) out = MatMul(f, w)", []),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rows_of_one_sample(case: str) -> None:
    inputs, body, expected = CASES[case]
    text = f'<ir_version: 10, opset_import: ["": 20]> g ({inputs}) => (float[R,8] out) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.helper.make_tensor("w", 1, [8, 8], [0.5] * 64))
    model.graph.initializer.append(onnx.helper.make_tensor("flat", 7, [2], [-1, 8]))
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model, data_prop=True))
    assert [gemm.rows for gemm in weight_gemms(graph)] == expected
