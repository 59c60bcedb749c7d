"""`If` nodes whose condition no input decides: the branch that is taken takes their place.

Exporters write them where a rank or a size is asked for (a squeeze, an empty axis). A condition that depends on the
batch is left alone, and refused later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphs.foreign.shape_values import Array, Inference
from graphs.foreign.tensor_sizes import check_sizes

_BATCHES = (1, 2, 999_983)  # one row, few, and a prime that is no size: what is equal for all depends on none
_MOST_ROUNDS = 64  # each takes all branches that can be told; conditions behind a branch need another
_FAILURES = (ValueError, TypeError, LookupError, RuntimeError, NotImplementedError, ArithmeticError, AttributeError)
"""What ONNX's reference raises on values that a node does not take: each op is numpy code of its own, and raises what
that does. Nothing is hidden by it: the branches then stay, and are refused by name."""


def without_static_branches(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, changed in place, with the branches that are always taken in place of their `If`.

    Raises ExportError for sizes that no model has, before anything of it is evaluated.
    """
    for _ in range(_MOST_ROUNDS):
        if not _branches(model):
            return model
        _check_rest(model)
        values = _known(model)
        taken = {
            node.output[0]: bool(values[node.input[0]].all()) for node in _branches(model) if node.input[0] in values
        }
        if not taken:
            return model
        _write_sizes(model.graph, values)
        _inline(model.graph, taken)
    return model


def _branches(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "If" and not node.domain]


def _check_rest(model: onnx.ModelProto) -> None:
    """All but the branches, which nothing evaluates: inference would enter them."""
    rest = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    rest.graph.name = "rest"
    rest.graph.input.extend(model.graph.input)
    rest.graph.initializer.extend(model.graph.initializer)
    rest.graph.node.extend(node for node in model.graph.node if not any(each.HasField("g") for each in node.attribute))
    check_sizes(rest)


def _known(model: onnx.ModelProto) -> dict[str, Array]:
    """What shapes and constants alone make, and is the same whatever the batch."""
    found: list[Mapping[str, Array]] = []
    for batch in _BATCHES:
        walk = Inference(model, batch=batch)
        try:
            walk.run()
        except _FAILURES:
            return {}
        found.append(walk.values)
    first, *others = found
    return {
        name: value
        for name, value in first.items()
        if all(name in other and np.array_equal(other[name], value, equal_nan=True) for other in others)
    }


def _write_sizes(graph: onnx.GraphProto, values: Mapping[str, Array]) -> None:
    """Sizes that were asked for become numbers: what a branch makes of them could not be told otherwise."""
    for node in [each for each in graph.node if each.op_type in ("Shape", "Size") and each.output[0] in values]:
        graph.initializer.append(numpy_helper.from_array(values[node.output[0]], node.output[0]))
        graph.node.remove(node)


def _inline(graph: onnx.GraphProto, taken: Mapping[str, bool]) -> None:
    kept: list[onnx.NodeProto] = []
    for place, node in enumerate(graph.node):
        if node.op_type != "If" or node.output[0] not in taken:
            kept.append(node)
            continue
        wanted = "then_branch" if taken[node.output[0]] else "else_branch"
        branch = next(each.g for each in node.attribute if each.name == wanted)
        kept += _nodes(graph, node, branch, f"{node.name or 'If'}_{place}")
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(nodes)


def _nodes(
    graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto, prefix: str
) -> Iterator[onnx.NodeProto]:
    """The branch's nodes under names of their own; its weights join those of `graph`."""
    own = {tensor.name for tensor in branch.initializer} | {name for each in branch.node for name in each.output}
    for tensor in branch.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = f"{prefix}/{tensor.name}"
    for each in branch.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(each)
        copy.name = f"{prefix}/{each.name}" if each.name else ""
        _rename(copy, own - {""}, prefix)
        yield copy
    for inner, outer in zip(branch.output, node.output, strict=False):
        yield helper.make_node("Identity", [f"{prefix}/{inner.name}" if inner.name in own else inner.name], [outer])


def _rename(node: onnx.NodeProto, names: Collection[str], prefix: str) -> None:
    """Inputs and outputs, and what graphs within it take from outside."""
    waiting = [node]
    while waiting:
        each = waiting.pop()
        for field in (each.input, each.output):
            for place, name in enumerate(field):
                if name in names:
                    field[place] = f"{prefix}/{name}"
        for attribute in each.attribute:
            if attribute.HasField("g"):
                waiting += attribute.g.node
