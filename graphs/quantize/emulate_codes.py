"""Graphs with codes that no CPU kernel knows, in standard operators: the same numbers to the last bit.

    codes of E2M1                twice their value is an integer: INT8 codes, and half of each scale
    TRT_FP4DynamicQuantize       its scales in E4M3 and its codes, written out in the same way

Every DequantizeLinear stays, and reads what it is given: a scale or a block that is not the quantiser's is seen.

Halving is exact, and so is doubling. What is rounded (a block's scale to E4M3, x over its scale to E2M1) is rounded to
the nearest, ties to even, in FP32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from graphs.errors import ExportError
from graphs.quantize.formats import FP4, FP8
from graphs.quantize.four_bit import BLOCK
from graphs.stage_specs import DYNAMIC_FOUR_BIT
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
FLOAT, FOUR = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT4E2M1
_FIRST = "emulate/codes"
_HINT = "build the bundle again"


def emulate_codes(model: onnx.ModelProto, folder: Path | None) -> onnx.ModelProto:
    """`model` without FP4; itself where it has none. Its external weights lie in `folder`.

    Raises:
        ExportError: FP4 that is used in another way than our graphs use it.
    """
    four = {tensor.name for tensor in model.graph.initializer if tensor.data_type == FOUR}
    dynamic = [node for node in model.graph.node if node.op_type == DYNAMIC_FOUR_BIT]
    if not four and not dynamic:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name in four:
            tensor.CopyFrom(numpy_helper.from_array(_doubled(tensor, folder), tensor.name))
    del made.graph.node[:]
    made.graph.node.extend(_nodes(model, four))
    kept = [value for value in made.graph.value_info if value.type.tensor_type.elem_type not in (FOUR, FP8.type)]
    del made.graph.value_info[:]
    made.graph.value_info.extend(kept)
    made.graph.initializer.extend(_numbers())
    return made


def _doubled(tensor: onnx.TensorProto, folder: Path | None) -> Array:
    """Codes of E2M1 as INT8 codes of twice the value."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL and folder is not None:
        codes = StoredValues(tensor, folder).load()
    else:
        codes = numpy_helper.to_array(tensor)
    return np.asarray(2 * codes.astype(np.float32), np.int8)


def _nodes(model: onnx.ModelProto, four: set[str]) -> Iterator[onnx.NodeProto]:
    dynamic = {node.output[0]: node for node in model.graph.node if node.op_type == DYNAMIC_FOUR_BIT}
    scales = {node.output[1] for node in dynamic.values()}
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    for node in model.graph.node:
        kind = kinds.get(node.output[0], FLOAT)
        if node.op_type == DYNAMIC_FOUR_BIT:
            _check(node)
            yield from _quantised(_Site(node.output[0]), node)
        elif node.op_type != "DequantizeLinear":
            if not four.isdisjoint(node.input) or any(name in dynamic or name in scales for name in node.input):
                raise ExportError(f"{node.name} reads FP4 and dequantises nothing", hint=_HINT)
            yield node
        elif node.input[0] in four or node.input[0] in dynamic:
            yield from _half_scaled(node, _Site(node.output[0]), kind)
        else:
            yield node


def _check(node: onnx.NodeProto) -> None:
    """The quantiser's attributes must be those of NVFP4 along the last axis."""
    told = {each.name: each.i for each in node.attribute}
    wanted = {"axis": -1, "block_size": BLOCK, "scale_type": FP8.type}
    wrong = [f"{name} {told[name]}" for name, value in wanted.items() if told.get(name, value) != value]
    if wrong:
        raise ExportError(f"{node.name} has {' and '.join(wrong)}, which is not NVFP4 along the last axis", hint=_HINT)


class _Site:
    """Makes the nodes that take the place of one, each named after its result."""

    def __init__(self, name: str) -> None:
        self._name = name

    def at(self, role: str) -> str:
        return f"{_FIRST}/{self._name}/{role}"

    def node(self, role: str, op: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, list(inputs), [self.at(role)], self.at(role), **attributes)


def _half_scaled(node: onnx.NodeProto, site: _Site, kind: int) -> Iterator[onnx.NodeProto]:
    """The node with half of its scales, of the type `kind`."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[1] = site.at("scales")
    yield site.node("factor", "Cast", _number("half"), to=kind)
    yield site.node("scales", "Mul", node.input[1], site.at("factor"))
    yield copy


def _quantised(site: _Site, quantiser: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """`x` [.., K] -> twice its codes [.., K] INT8, and its scales [.., K / 16] E4M3, under their own names."""
    at, node, (x, unit) = site.at, site.node, quantiser.input
    codes, scales = quantiser.output
    yield node("shape", "Shape", x)
    yield node("float", "Cast", x, to=FLOAT)
    yield node("blocks", "Reshape", at("float"), _number("rows"))
    yield node("sizes", "Abs", at("blocks"))
    yield node("largest", "ReduceMax", at("sizes"), _number("last"), keepdims=1)
    yield node("range", "Div", at("largest"), _number("six"))
    yield node("scale", "Div", at("range"), unit)
    yield node("scale_codes", "Cast", at("scale"), to=FP8.type)
    yield node("scale_numbers", "Cast", at("scale_codes"), to=FLOAT)
    yield node("steps", "Mul", at("scale_numbers"), unit)
    yield node("empty", "Equal", at("steps"), _number("zero"))
    yield node("divisors", "Where", at("empty"), _number("one"), at("steps"))
    yield node("even", "Div", at("blocks"), at("divisors"))
    yield from _rounded(site)
    yield node("doubled_numbers", "Mul", at("numbers"), _number("two"))
    yield node("laid_out", "Reshape", at("doubled_numbers"), at("shape"))
    yield helper.make_node("Cast", [at("laid_out")], [codes], at("codes"), to=onnx.TensorProto.INT8)
    yield node("leading", "Slice", at("shape"), _number("first"), _number("last"))
    yield node("scales_shape", "Concat", at("leading"), _number("last"), axis=0)
    yield node("scales_laid_out", "Reshape", at("scale"), at("scales_shape"))
    yield helper.make_node("Cast", [at("scales_laid_out")], [scales], at("scales"), to=FP8.type)


def _rounded(site: _Site) -> Iterator[onnx.NodeProto]:
    """`even` -> `numbers` of E2M1: in steps of 0.5 below 2, of 1 below 4, and of 2 up to 6."""
    at, node = site.at, site.node
    yield node("held", "Clip", at("even"), _number("minus_six"), _number("six"))
    yield node("size", "Abs", at("held"))
    yield node("doubled", "Mul", at("held"), _number("two"))
    yield node("halved", "Mul", at("held"), _number("half"))
    yield node("doubled_rounded", "Round", at("doubled"))
    yield node("rounded", "Round", at("held"))
    yield node("halved_rounded", "Round", at("halved"))
    yield node("fine", "Mul", at("doubled_rounded"), _number("half"))
    yield node("coarse", "Mul", at("halved_rounded"), _number("two"))
    yield node("is_fine", "Less", at("size"), _number("two"))
    yield node("is_middle", "Less", at("size"), _number("four"))
    yield node("upper", "Where", at("is_middle"), at("rounded"), at("coarse"))
    yield node("numbers", "Where", at("is_fine"), at("fine"), at("upper"))


def _numbers() -> Iterator[onnx.TensorProto]:
    """The constants that all sites share."""
    values = {"zero": 0, "half": 0.5, "one": 1, "two": 2, "four": 4, "six": FP4.largest, "minus_six": FP4.lowest}
    for name, value in values.items():
        yield numpy_helper.from_array(np.array(value, np.float32), _number(name))
    yield numpy_helper.from_array(np.array([0], np.int64), _number("first"))
    yield numpy_helper.from_array(np.array([-1], np.int64), _number("last"))
    yield numpy_helper.from_array(np.array([-1, BLOCK], np.int64), _number("rows"))


def _number(name: str) -> str:
    return f"{_FIRST}/{name}"
