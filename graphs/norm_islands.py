"""Norms spelt out in primitives, found by structure: where `x` meets a statistic of itself.

A statistic is a reduction of `x`, of `x^2` or of `x - mean`, over one axis that is kept, and what is computed from it
alone (`+ eps`, a root, a reciprocal). LayerNorm subtracts one and divides by one, RMSNorm multiplies by one. The whole
norm computes in one type, or it would be rounded half way: from the reduction to the scale and the bias behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.flow import producer

REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare"})
_APPLIED = frozenset({"Sub", "Mul", "Div"})
_POINTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Max", "Clip", "Cast", "Identity"})


@dataclass(frozen=True)
class _Statistic:
    """`of`: ids of the tensors it is taken of. `nodes`: the names of what computes it from them."""

    of: frozenset[int]
    nodes: frozenset[str]


def spelt_norms(graph: gs.Graph) -> set[str]:
    """The names of all nodes that are part of a spelt-out norm. The graph's nodes must be in topological order."""
    statistics: dict[int, _Statistic] = {}
    found: set[str] = set()
    for node in graph.nodes:
        if (applied := _applied(node, statistics)) is not None:
            found |= applied.nodes | {node.name} | {each.name for each in _affine(node)}
        elif (statistic := _statistic(node, statistics)) is not None:
            statistics[id(node.outputs[0])] = statistic
    return found


def _applied(node: gs.Node, statistics: dict[int, _Statistic]) -> _Statistic | None:
    """The statistic that `node` applies to the tensor it was taken of."""
    if node.op not in _APPLIED or len(node.inputs) != 2:
        return None
    for tensor, other in (node.inputs, node.inputs[::-1]):
        statistic = statistics.get(id(other))
        if statistic is not None and id(tensor) in statistic.of:
            return statistic
    return None


def _statistic(node: gs.Node, statistics: dict[int, _Statistic]) -> _Statistic | None:
    if node.op in REDUCTIONS and node.attrs.get("keepdims", 1):
        return _reduction(node)
    if node.op not in _POINTWISE:
        return None
    variable = [tensor for tensor in node.inputs if isinstance(tensor, gs.Variable) and not tensor.is_empty()]
    known = [statistics[id(tensor)] for tensor in variable if id(tensor) in statistics]
    if not known or len(known) < len(variable):
        return None
    of = frozenset[int]().union(*(statistic.of for statistic in known))
    return _Statistic(of, frozenset({node.name}).union(*(statistic.nodes for statistic in known)))


def _reduction(node: gs.Node) -> _Statistic:
    """Of its input, and of what the input is the square of."""
    squared, square = node.inputs[0], producer(node.inputs[0])
    if square is None or not (square.op == "Pow" or (square.op == "Mul" and square.inputs[0] is square.inputs[1])):
        return _Statistic(frozenset({id(squared)}), frozenset({node.name}))
    return _Statistic(frozenset({id(squared), id(square.inputs[0])}), frozenset({node.name, square.name}))


def _affine(node: gs.Node) -> Iterator[gs.Node]:
    """A constant scale and a constant bias behind the norm, each the only reader of what is before it."""
    for op in ("Mul", "Add"):
        readers = node.outputs[0].outputs
        if len(readers) == 1 and readers[0].op == op and any(isinstance(t, gs.Constant) for t in readers[0].inputs):
            node = readers[0]
            yield node
