"""Sizes that a graph computes from constants by arithmetic that shape inference does not do, such as a power."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
LARGEST = 4096  # elements; shapes have a few
MAKERS: Mapping[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Tile": (1,),
    "Range": (0, 1, 2),
    "Pad": (1,),
    "OneHot": (1,),
    "Resize": (2, 3),
    "Upsample": (1,),
    "HannWindow": (0,),
    "HammingWindow": (0,),
    "BlackmanWindow": (0,),
}
"""Op type -> which of its inputs say how large its output is."""
_PLAIN: Mapping[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Pow": lambda a, b: np.power(np.asarray(a, np.float64), np.asarray(b, np.float64)).astype(a.dtype),
    "Neg": np.negative,
    "Abs": np.abs,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Identity": np.copy,
    "Min": lambda *each: np.minimum.reduce(np.broadcast_arrays(*each)),
    "Max": lambda *each: np.maximum.reduce(np.broadcast_arrays(*each)),
    "Sum": lambda *each: sum(each[1:], each[0]),
    "Where": np.where,
    "Greater": np.greater,
    "Less": np.less,
    "Equal": np.equal,
    "Not": np.logical_not,
}


def with_small_constants(graph: onnx.GraphProto, limit: int) -> tuple[set[str], dict[str, int]]:
    """Puts the values of small tensors that `graph` computes from constants beside the nodes, as weights. What would
    have more than `limit` elements is not computed.

    Every `Range` becomes an input, since inference would write all of it out. Returns the names of all that depends on
    constants alone, and the elements of each `Range` of known bounds.
    """
    ranges: dict[str, int] = {}
    known = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    shapes = {each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in graph.input}
    fixed, kept = set(known), []
    for node in graph.node:
        if node.op_type == "Constant" or all(not name or name in fixed for name in node.input):
            fixed.update(node.output)
        value = _value(node, known, limit)
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value" and math.prod(attribute.t.dims) <= limit:
                known[node.output[0]] = numpy_helper.to_array(attribute.t)
        if node.op_type == "Shape" and not node.attribute and all(shapes.get(node.input[0], [])):
            value = np.array(shapes[node.input[0]], np.int64) if node.input[0] in shapes else None
        if node.op_type == "Range" and len(node.input) == 3 and node.output:
            graph.input.append(_range_input(node, known, ranges))
        elif value is None:
            kept.append(node)
        else:
            known[node.output[0]] = value
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    return fixed, ranges


def _range_input(node: onnx.NodeProto, known: Mapping[str, Array], ranges: dict[str, int]) -> onnx.ValueInfoProto:
    name, bounds = node.output[0], [known.get(each) for each in node.input]
    kind = next((each.dtype for each in bounds if each is not None), np.dtype(np.int64))
    if all(each is not None and each.size == 1 for each in bounds):
        start, end, step = (float(each.reshape(())) for each in bounds if each is not None)
        steps = (end - start) / step if step else math.nan
        ranges[name] = max(0, math.ceil(steps)) if math.isfinite(steps) else sys.maxsize
    size = ranges.get(name, LARGEST + 1)  # a longer one would be written out by what reads it, as a shape
    shape = [size if size <= LARGEST else None]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), shape)


def _value(node: onnx.NodeProto, known: Mapping[str, Array], limit: int) -> Array | None:
    inputs = [known.get(name) for name in node.input]
    if not inputs or len(node.output) != 1 or any(each is None or each.size > LARGEST for each in inputs):
        return None
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    try:
        with np.errstate(all="ignore"):
            made = _computed(node.op_type, inputs, attributes)
    except (ValueError, TypeError, OverflowError, KeyError, IndexError):  # the runtime will say what is wrong with it
        return None
    return np.ascontiguousarray(made).reshape(made.shape) if made is not None and made.size <= limit else None


def _computed(op: str, inputs: list[Any], attributes: Mapping[str, Any]) -> Array | None:
    if op in _PLAIN:
        small = np.broadcast_shapes(*(each.shape for each in inputs))
        return np.asarray(_PLAIN[op](*inputs)) if np.prod(small, dtype=float) <= LARGEST else None
    if op == "Div":
        whole = np.issubdtype(inputs[0].dtype, np.integer)
        made = np.trunc(np.true_divide(*inputs)) if whole else np.true_divide(*inputs)
        return np.asarray(made, inputs[0].dtype)
    if op == "ConstantOfShape":
        fill = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
        sizes = [int(size) for size in inputs[0]]
        return np.full(sizes, fill.reshape(())) if 0 <= math.prod(sizes) <= LARGEST else None
    if op == "Expand":
        shape = np.broadcast_shapes(inputs[0].shape, tuple(inputs[1].tolist()))
        return np.broadcast_to(inputs[0], shape) if math.prod(shape) <= LARGEST else None
    if op == "Reshape" and 0 not in inputs[1]:  # 0 keeps a size, or is one
        return np.reshape(inputs[0], inputs[1].tolist())
    if op == "Concat":
        return np.concatenate(inputs, axis=attributes["axis"])
    if op == "Gather":
        return np.asarray(np.take(inputs[0], inputs[1], axis=attributes.get("axis", 0)))
    if op in ("Squeeze", "Unsqueeze"):
        places = tuple(inputs[1].tolist()) if len(inputs) > 1 else tuple(attributes.get("axes", ())) or None
        return np.squeeze(inputs[0], places) if op == "Squeeze" else np.expand_dims(inputs[0], places or ())
    if op == "Cast":
        return inputs[0].astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))  # type: ignore[no-any-return]
    if op in ("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin"):
        axes = inputs[1].tolist() if len(inputs) > 1 else attributes.get("axes")
        name = op.removeprefix("Reduce").lower()
        keep = bool(attributes.get("keepdims", 1))
        return np.asarray(getattr(np, name)(inputs[0], axis=tuple(axes) if axes else None, keepdims=keep))
    return None
