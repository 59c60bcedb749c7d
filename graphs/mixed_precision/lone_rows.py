"""GEMMs over one row per image get a second, empty row: a runtime multiplies a single row with another kernel.

    MatMul(x [batch, K], w)  ->  Slice(MatMul(Pad(x), w))

ONNX Runtime does at batch 1, and sums in another order there. In FP32 that is 1e-7, but the half rounding behind it
then falls to the other side here and there: an image would not be the same alone and in a batch, for no fault of the
model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

Shape = tuple[int | str, ...]


def pad_lone_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, changed in place: its GEMMs whose rows are the batch's compute one more, which is dropped again.

    Shapes are read from the model's value_info; where one is missing, the GEMM stays as it is.
    """
    shapes = _shapes(model.graph)
    nodes = [copy for node in model.graph.node for copy in _padded(node, shapes)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    ranks = {len(shapes[node.input[0]]) for node in nodes if node.op_type == "Pad" and node.name.startswith(_NAME)}
    for name, values in _constants(ranks).items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    _declare(model.graph, shapes)
    return model


def _declare(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
    """Says the shapes around each GEMM: opening is quadratic in the axes that ONNX Runtime must name itself."""
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.input]}
    known = {*types, *(value.name for value in graph.output)}
    for pad, gemm, cut in zip(graph.node, graph.node[1:], graph.node[2:], strict=False):
        if not (pad.op_type == "Pad" and pad.name.startswith(_NAME) and pad.input[0] in types):
            continue
        turned = any(each.name == "transB" and each.i for each in gemm.attribute)
        first, *middle, inner = shapes[pad.input[0]]
        if not first:
            continue  # an axis without a name: it is not known which others are as long
        outer = shapes[gemm.input[1]][0 if turned else 1]
        wide = (f"{_NAME}{first}", *middle)
        made = {pad.output[0]: (*wide, inner), gemm.output[0]: (*wide, outer), cut.output[0]: (first, *middle, outer)}
        graph.value_info.extend(
            helper.make_tensor_value_info(name, types[pad.input[0]], shape)
            for name, shape in made.items()
            if name not in known
        )


_NAME = "lone_rows/"


def _constants(ranks: set[int]) -> dict[str, list[int]]:
    if not ranks:
        return {}
    pads = {f"{_NAME}pads{rank}": [0] * rank + [1] + [0] * (rank - 1) for rank in sorted(ranks)}
    return {**pads, f"{_NAME}first": [0], f"{_NAME}last": [-1], f"{_NAME}axis": [0]}


def _padded(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> Iterator[onnx.NodeProto]:
    if not _may_be_alone(node, shapes):
        yield node
        return
    rank, out = len(shapes[node.input[0]]), node.output[0]
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[0], copy.output[0] = f"{out}/two", f"{out}/rows"
    yield helper.make_node("Pad", [node.input[0], f"{_NAME}pads{rank}"], [f"{out}/two"], f"{_NAME}{out}/two")
    yield copy
    bounds = [f"{_NAME}first", f"{_NAME}last", f"{_NAME}axis"]
    yield helper.make_node("Slice", [f"{out}/rows", *bounds], [out], f"{_NAME}{out}")


def _may_be_alone(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> bool:
    """Whether a GEMM with one matrix for all images has a single row at batch 1, and more at others."""
    if node.op_type not in ("MatMul", "Gemm") or any(name not in shapes for name in node.input[:2]):
        return False
    if any(a.name in ("transA",) and a.i for a in node.attribute) or len(shapes[node.input[1]]) != 2:
        return False
    if len(node.input) > 2 and len(shapes.get(node.input[2], ("?", "?"))) > 1:
        return False
    first, *middle = shapes[node.input[0]][:-1] or (1,)
    return isinstance(first, str) and all(size == 1 for size in middle)


def _shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    found: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            found[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims)
    return found
