"""How large the integers may be that a graph takes: the size of the table that an input looks up."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

_PASSING = frozenset({"Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_LOOKUPS = frozenset({"Gather", "GatherElements"})


def index_bounds(model: onnx.ModelProto) -> dict[str, int]:
    """Input name -> number of rows of the smallest constant table that it indexes, directly or through movers."""
    return {
        value.name: min(sizes) for value in model.graph.input if (sizes := list(_table_sizes(model.graph, value.name)))
    }


def _table_sizes(graph: onnx.GraphProto, name: str) -> Iterator[int]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes |= {node.output[0]: tuple(node.attribute[0].t.dims) for node in graph.node if node.op_type == "Constant"}
    follow = {name}
    for node in graph.node:  # topological: what is followed was made before
        if node.op_type in _PASSING and node.input[0] in follow:
            follow.update(node.output)
        elif node.op_type in _LOOKUPS and node.input[1] in follow and node.input[0] in shapes:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            yield shapes[node.input[0]][axis]
