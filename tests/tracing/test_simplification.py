"""What simplification leaves as it is: slices of an axis, even or odd."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx.reference import ReferenceEvaluator

from dsr_export.tracing.simplification import simplify

HALVES = """
<ir_version: 9, opset_import: ["" : 20]>
halves (float[3, {width}] x) => (float[3, {last}] swapped)
<int64[1] none = {{0}}, int64[1] cut = {{{at}}}, int64[1] end = {{{width}}}, int64[1] axis = {{{axis}}}>
{{
    second = Slice(x, cut, end, axis)
    first = Slice(x, none, cut, axis)
    swapped = Concat<axis = 1>(second, first)
}}
"""


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize(("width", "at"), [(8, 4), (7, 3), (7, 4), (8, 3), (7, -3), (3, 1)])
def test_slices_of_an_axis_are_those_of_the_module(width: int, at: int, axis: int) -> None:
    text = HALVES.format(width=width, at=at, axis=axis, last=width)
    model = onnx_ir.from_proto(onnx.parser.parse_model(text))
    simplify(model)
    x = np.arange(3 * width, dtype=np.float32).reshape(3, width)
    (made,) = ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, {"x": x})
    np.testing.assert_array_equal(made, np.concatenate([x[:, at:], x[:, :at]], 1))
