"""Sizes that a few bytes can ask for: bounded before anything runs, however the graph computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from graphs.errors import ExportError
from graphs.foreign.tensor_sizes import check_sizes

LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    "a product": ("s = Mul(a, b) z = ConstantOfShape(s)", {"a": [50000], "b": [50000]}),
    "a power": ("s = Pow(a, b) z = ConstantOfShape(s)", {"a": [10], "b": [10]}),
    "a cast product": ("t = Mul(a, b) s = Cast<to=7>(t) z = ConstantOfShape(s)", {"a": [5e4], "b": [5e4]}),
    "a reduction": ("s = ReduceProd<keepdims=1>(a) z = ConstantOfShape(s)", {"a": [50000, 50000]}),
    "a choice": ("c = Greater(a, b) s = Where(c, a, b) z = ConstantOfShape(s)", {"a": [5], "b": [2500000000]}),
    "a sine": ("t = Sin(a) u = Mul(t, b) s = Cast<to=7>(u) z = ConstantOfShape(s)", {"a": [1.5], "b": [2.5e9]}),
    "a constant node": ("c = Constant<value_ints=[1]>() s = Mul(a, c) z = ConstantOfShape(s)", {"a": [2500000000]}),
    "an expansion": ("s = Mul(a, b) z = Expand(o, s)", {"a": [50000], "b": [50000], "o": [1.0]}),
    "tiles": ("s = Mul(a, b) z = Tile(o, s)", {"a": [50000], "b": [50000], "o": [1.0]}),
    "a range": ("r = Range(n, a, o) z = Cast<to=1>(r)", {"a": 2500000000, "n": 0, "o": 1}),
    "a range of a product": ("p = Mul(a, b) z = Range(n, p, o)", {"a": 50000, "b": 50000, "n": 0, "o": 1}),
    "a range of a shape": (
        "h = Shape(x) g = Gather(h, k) p = Mul(g, b) z = Range(n, p, o)",
        {"b": 1000000000, "k": 1, "n": 0, "o": 1},
    ),
    "a range without end": ("z = Range(n, a, n)", {"a": 25, "n": 0}),
    "padding": (
        "p = Mul(a, b) q = Concat<axis=0>(n, p) z = Pad(o, q)",
        {"a": [50000], "b": [50000], "n": [0], "o": [1.0]},
    ),
    "a shape": ("h = Shape(x) s = Mul(h, a) z = Expand(o, s)", {"a": [100000, 10000], "o": [[1.0]]}),
    "a depth": ("p = Mul(a, b) z = OneHot(k, p, o)", {"a": 50000, "b": 50000, "k": [1], "o": [0.0, 1.0]}),
    "a scale": ('p = Mul(a, b) z = Resize<mode="nearest">(o, , p)', {"a": [1, 5e4], "b": [1, 5e4], "o": [[1.0]]}),
    "a gigabyte for a file without weights": ("s = Identity(a) z = Expand(o, s)", {"a": [2**28], "o": [1.0]}),
}


def _model(body: str, constants: dict[str, Any]) -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["": 20]> g (float[N,4] x) => (float[N,4] out) {{ {body} out = Relu(x) }}'
    model = onnx.parser.parse_model(text)
    for name, value in constants.items():
        kind = np.int64 if np.array(value).dtype.kind == "i" else np.float32
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, kind), name))
    return model


@pytest.mark.parametrize("case", LARGE)
def test_what_a_few_bytes_ask_for_is_bounded(case: str) -> None:
    with pytest.raises(ExportError, match="elements, and at most|cannot be told") as refused:
        check_sizes(_model(*LARGE[case]))
    assert refused.value.hint


def test_shapes_that_models_compute_are_taken() -> None:
    check_sizes(_model("h = Shape(x) g = Gather(h, k) z = Range(n, g, o)", {"k": 1, "n": 0, "o": 1}))
    body = "h = Shape(x) g = Gather(h, k) q = Concat<axis=0>(g, a) z = Expand(o, q)"
    check_sizes(_model(body, {"k": [0], "a": [4], "o": [1.0]}))
    check_sizes(_model("s = Mul(a, b) z = ConstantOfShape(s)", {"a": [8], "b": [8]}))


def test_a_model_with_weights_may_ask_for_more() -> None:
    model = _model("z = Expand(x, a)", {"a": [2**26, 4]})
    with pytest.raises(ExportError, match="at most 134,217,728"):
        check_sizes(model)
    weight = onnx.TensorProto(name="w", data_type=1, dims=[2**24], data_location=onnx.TensorProto.EXTERNAL)
    model.graph.initializer.append(weight)
    check_sizes(model)
