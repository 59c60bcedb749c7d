"""A graph as another runtime might round it: every number that a node makes is about one step of FP32 off."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphs.mixed_precision.emulate import EXACT

STEP = np.float32(2.0**-23)
UP, DOWN = "otherwise/up", "otherwise/down"


def round_otherwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with each float tensor times 1 + 2**-23 or 1 - 2**-23 behind the node that makes it.

    Whole numbers stay: zeros, masks, counts, and the huge ones that stand for minus infinity. So do those that a node
    was given, and tensors whose type cannot be inferred. Needs opset 11 to run.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in [*inferred.value_info, *inferred.output]}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    made.graph.node.extend(each for node in model.graph.node for each in _stepped(node, kinds))
    factors = {UP: 1 + STEP, DOWN: 1 - STEP}
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(x), name) for name, x in factors.items())
    return made


def _stepped(node: onnx.NodeProto, kinds: dict[str, int]) -> Iterator[onnx.NodeProto]:
    """`node`, and behind it what changes its results. A graph inside of it, which may read outer names, is left."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    new = [name for name in node.output if kinds.get(name) == TensorProto.FLOAT and node.op_type not in EXACT]
    for i, name in enumerate(copy.output):
        copy.output[i] = f"{name}/own" if name in new else name
    yield copy
    for name in new:
        own, whole, is_whole, other = (f"{name}/{part}" for part in ("own", "whole", "is_whole", "other"))
        factor = UP if zlib.crc32(name.encode()) & 1 else DOWN
        yield helper.make_node("Round", [own], [whole])
        yield helper.make_node("Equal", [own, whole], [is_whole])
        yield helper.make_node("Mul", [own, factor], [other])
        yield helper.make_node("Where", [is_whole, own, other], [name])
