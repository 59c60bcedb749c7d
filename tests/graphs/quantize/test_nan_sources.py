"""What may hold NaN by a graph's structure, and what may not: an epsilon or a maximum keeps a divisor from zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphs.files import load_inferred_graph
from graphs.quantize.nan_sources import may_be_nan

CONSTANTS = {
    "eps": 1e-12,
    "two": 2.0,
    "half": 0.5,
    "minus": -0.5,
    "zero": 0.0,
    "one": 1.0,
    "large": -np.inf,
    "far": -1e4,
    "fin": np.finfo(np.float32).min,
    "w": np.eye(16),
}
SAFE = [
    "n = ReduceL2(x, last) c = Max(n, eps) out = Div(x, c)",
    "n = ReduceL2(x, last) c = Clip(n, eps) e = Expand(c, shape) out = Div(x, e)",
    "q = Mul(x, x) m = ReduceMean(q, last) v = Add(m, eps) r = Sqrt(v) i = Reciprocal(r) out = Mul(x, i)",
    "m = ReduceMean(x, last) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, last) e = Add(v, eps) out = Pow(e, minus)",
    "q = Relu(x) k = Transpose<perm=[0,2,1]>(q) s = MatMul(q, k) e = Add(s, eps) out = Div(s, e)",
    "s = MatMul(x, w) m = Add(s, far) out = Softmax(m)",
    "a = Abs(x) n = Neg(a) e = Exp(n) d = Add(one, e) out = Div(x, d)",
    "g = Sigmoid(x) d = Add(g, half) out = Log(d)",
    "m = Sub(one, x) b = Mul(m, far) s = MatMul(x, w) a = Add(s, b) out = Softmax(a)",
    "y = LayerNormalization(x, row) c = Cos(y) d = Add(c, two) out = Sqrt(d)",
    "m = IsNaN(x) y = Where(m, zero, x) out = Identity(y)",
]
SPOILT = [
    "n = ReduceL2(x, last) out = Div(x, n)",
    "q = Mul(x, x) m = ReduceMean(q, last) r = Sqrt(m) i = Reciprocal(r) out = Mul(x, i)",
    "q = Mul(x, x) m = ReduceMean(q, last) out = Pow(m, minus)",
    "a = Abs(x) s = ReduceMax(a, last) d = Div(x, s) n = LayerNormalization(d, row) out = MatMul(n, w)",
    "out = Sqrt(x)",
    "a = Abs(x) out = Log(a)",
    "out = Exp(x)",
    "s = MatMul(x, w) m = Where(far_away, large, s) out = Softmax(m)",
    "s = MatMul(x, w) m = Add(s, fin) out = Softmax(m)",
    "s = MatMul(x, w) m = Add(s, x) out = Softmax(m)",
    "t = Sub(x, one) d = Add(t, two) out = Div(one, d)",
    "q = Relu(x) k = Cast<to=7>(eps) c = Cast<to=1>(k) d = Add(q, c) out = Div(x, d)",
    "out = LayerNormalization<epsilon=0.0>(x, row)",
    "out = Div(x, x)",
    "out = Pow(x, half)",
]


def _found(folder: Path, body: str) -> bool:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[N,16,16] x) => (float[N,16,16] out) {{ {body} }}'
    )
    values = {name: np.asarray(value, np.float32) for name, value in CONSTANTS.items()}
    values |= {"last": np.array([-1]), "shape": np.array([1, 16, 16]), "row": np.ones(16, np.float32)}
    values["far_away"] = np.eye(16, dtype=bool)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    onnx.save(model, folder / "m.onnx")
    graph = load_inferred_graph(folder / "m.onnx")
    return id(graph.outputs[0]) in may_be_nan(graph)


@pytest.mark.parametrize("body", SAFE)
def test_what_cannot_be_nan(tmp_path: Path, body: str) -> None:
    assert not _found(tmp_path, body)


@pytest.mark.parametrize("body", SPOILT)
def test_what_may_be_nan(tmp_path: Path, body: str) -> None:
    assert _found(tmp_path, body)
