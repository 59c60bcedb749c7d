"""Low types on runtimes that do not compute in them: everything in FP32, and each low tensor rounded where it is made.

ONNX Runtime's CPU provider has no BF16 arithmetic. For FP16 it puts casts to FP32 around each node and then drops those
between two nodes, with all optimisations off as well: a half graph computes in FP32 there, and what half arithmetic
would lose or overflow is never seen. Casts that stand in the graph are another matter. A pair FP32 -> low -> FP32 loses
bits, and its cast remover keeps such pairs at every optimisation level; its test holds it to that.

One operation on numbers of 11 bits, done in FP32 and rounded to 11 bits, is the correctly rounded one (24 >= 2 * 11 + 2
bits), and a sum of products is rounded once, as by hardware that accumulates in FP32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphs.errors import ExportError
from graphs.precisions import PRECISIONS
from graphs.structure.movers import MOVERS

FP32 = TensorProto.FLOAT
LOW = frozenset(record.around for record in PRECISIONS.values() if record.narrow)
_CHOOSERS = frozenset({"Abs", "Clip", "Concat", "Constant", "Max", "MaxPool", "Min", "Neg", "ReduceMax", "ReduceMin"})
EXACT = MOVERS | _CHOOSERS | {"Relu", "Where"}
"""Ops whose results are numbers they were given, or their negatives: what was rounded stays so."""
SMALL = 1 << 16  # bytes
_TYPE_ATTRIBUTES = frozenset({"dtype", "output_dtype", "output_datatype", "softmax_precision", "stash_type", "to"})


def emulate_low(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with each FP16 and BF16 tensor held in FP32 and rounded to its type where it is made; itself without any.

    Tensors keep their names. Large weights keep their type, and may be absent: a cast beside the first reader widens
    them, so that a runtime holds one of them in FP32 at a time. Small ones are stored in FP32, since ONNX Runtime opens
    a model in time that is quadratic in the nodes that wait for nothing.

    Raises:
        ExportError: the type of a tensor cannot be inferred, so that nobody knows whether to round it.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*inferred.value_info, *inferred.output]}
    stored = {tensor.name for tensor in model.graph.initializer if tensor.data_type in LOW}
    stored |= {value.name for value in model.graph.input if value.type.tensor_type.elem_type in LOW}
    if not stored and LOW.isdisjoint(types.values()):
        return model
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    del emulated.graph.node[:], emulated.graph.value_info[:]
    emulated.graph.value_info.extend(inferred.value_info)  # a runtime infers what is missing at every change it makes
    for value in [*emulated.graph.value_info, *emulated.graph.output]:
        if value.type.tensor_type.elem_type in LOW:
            value.type.tensor_type.elem_type = FP32
    small = _widen_small(emulated.graph)
    emulated.graph.node.extend(_nodes(model.graph.node, types, stored, set(small)))
    kept = stored - small
    shapes = [(tensor.name, tensor.dims) for tensor in model.graph.initializer if tensor.name in kept]
    emulated.graph.value_info.extend(helper.make_tensor_value_info(f"{name}/fp32", FP32, dims) for name, dims in shapes)
    return emulated


def _widen_small(graph: onnx.GraphProto) -> set[str]:
    """Stores the low weights of few bytes in FP32, as `<name>/fp32`; returns their names."""
    fed = {value.name for value in graph.input}  # a constant that callers may replace
    low = (tensor for tensor in graph.initializer if tensor.data_type in LOW and tensor.name not in fed)
    small = {tensor.name: tensor for tensor in low if 0 < len(tensor.raw_data) <= SMALL}
    for name, tensor in small.items():
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}/fp32"))
    return set(small)


def _nodes(
    nodes: Iterable[onnx.NodeProto], types: dict[str, int], stored: set[str], widened: set[str]
) -> Iterator[onnx.NodeProto]:
    """`nodes` in FP32, in their order, with the casts that widen what is stored and round what is made."""
    for node in nodes:
        for name in stored.intersection(node.input) - widened:
            widened.add(name)
            yield _cast(name, f"{name}/fp32", FP32)
        yield from _rounded(node, types, stored)


def _rounded(node: onnx.NodeProto, types: dict[str, int], stored: set[str]) -> Iterator[onnx.NodeProto]:
    """`node` in FP32; behind it, where its results may be new numbers, a rounding pair of casts for each."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        _widen(attribute)
    for i, name in enumerate(copy.input):
        if name in stored:
            copy.input[i] = f"{name}/fp32"
    made = [name for name in node.output if name]
    unknown = [name for name in made if name not in types]
    if unknown:
        raise ExportError(
            f"the type of '{unknown[0]}' (made by {node.op_type} '{node.name}') cannot be inferred",
            hint="a graph whose half tensors are not known cannot be checked: build it with --precision fp32",
        )
    new = [name for name in made if types[name] in LOW and node.op_type not in EXACT]
    for i, name in enumerate(copy.output):
        if name in new:
            copy.output[i] = f"{name}/exact"
    yield copy
    for name in new:
        yield _cast(f"{name}/exact", f"{name}/low", types[name])
        yield _cast(f"{name}/low", name, FP32)


def _cast(source: str, result: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], f"emulate/{result}", to=kind)


def _widen(attribute: onnx.AttributeProto) -> None:
    """What an attribute says of types, or holds in one."""
    if attribute.name in _TYPE_ATTRIBUTES and attribute.i in LOW:
        attribute.i = FP32
    if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type in LOW:
        values = numpy_helper.to_array(attribute.t).astype(np.float32)
        attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
