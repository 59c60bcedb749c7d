"""How many rows of a sample a GEMM reads: tokens, one of a condition, or what only the whole batch knows; which GEMMs
embed or come last."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs
import pytest

from graphs.weights.gemms import outer_gemms, weight_gemms

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


PLACES = {  # the nodes that stand outside, by what they make
    "a chain": ("e = MatMul(x, w) h = MatMul(e, w) out = MatMul(h, w)", {"e", "out"}),
    "a stream of looked up words": (
        "e = Gather(w, ids) q = MatMul(e, w) a = MatMul(q, w) s = Add(e, a) f = MatMul(s, w) out = MatMul(f, w)",
        {"e", "out"},
    ),
    "a stream that an input joins": (
        "e = MatMul(x, w) s = Concat<axis=1>(e, x) q = MatMul(s, w) a = MatMul(q, w) y = Add(s, a) out = MatMul(y, w)",
        {"e", "out"},
    ),
    "a stream that leaves without a last layer": (
        "e = MatMul(x, w) q = MatMul(e, w) a = MatMul(q, w) s = Add(e, a) f = MatMul(s, w) g = MatMul(f, w)"
        " out = Add(s, g)",
        {"e", "g"},
    ),
    "a mask": ("e = MatMul(x, w) v = MatMul(e, w) m = Mul(v, x) p = MatMul(m, w) out = MatMul(p, w)", {"e", "out"}),
    "a batch size": (
        "e = MatMul(x, w) n = Shape(e) y = Reshape(x, n) f = MatMul(y, w) h = MatMul(f, w) out = Add(h, e)",
        {"e", "f", "h"},
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_embedders_and_last_layers_stand_outside_whatever_goes_around_the_blocks(case: str) -> None:
    body, outside = PLACES[case]
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[B,16,8] x, int64[B,16] ids) => (float[B,R,8] out)'
    model = onnx.parser.parse_model(f"{text} {{ {body} }}")
    model.graph.initializer.append(onnx.helper.make_tensor("w", 1, [8, 8], [0.5] * 64))
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model))
    for node in graph.nodes:
        node.name = node.outputs[0].name
    assert outer_gemms(graph) == outside
