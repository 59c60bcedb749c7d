"""Norms spelt out in primitives, found by structure: where `x` meets a statistic of itself.

A statistic is a reduction of `x`, of `x^2` or of `x - mean`, and what is computed from it alone (`+ eps`, a root, a
reciprocal, another shape). LayerNorm subtracts one and divides by one, RMSNorm multiplies by one. The whole
norm computes in one type, or it would be rounded half way: from the reduction to the scale and the bias behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.structure.flow import producer
from graphs.structure.movers import MOVERS

REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare"})
_APPLIED = frozenset({"Sub", "Mul", "Div"})
_POINTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Max", "Clip", "Cast", "Identity"})


@dataclass(frozen=True)
class _Statistic:
    """`of`: ids of the tensors it is taken of, before a mean was subtracted. `nodes`: what computes it from them."""

    of: frozenset[int]
    nodes: frozenset[str]


def spelt_norms(graph: gs.Graph) -> set[str]:
    """The names of all nodes that are part of a spelt-out norm, and of every square that is summed.

    The graph's nodes must be in topological order.
    """
    statistics: dict[int, _Statistic] = {}
    whole: dict[int, int] = {}  # x - mean -> x, which may be subtracted more than once
    found = {square.name for node in graph.nodes if node.op in REDUCTIONS and (square := _squared(node)) is not None}
    for node in graph.nodes:
        if (applied := _applied(node, statistics, whole)) is not None:
            if node.op == "Sub":
                whole[id(node.outputs[0])] = whole.get(id(node.inputs[0]), id(node.inputs[0]))
            found |= applied.nodes | {node.name} | {each.name for each in _affine(node)}
        elif (statistic := _statistic(node, statistics, whole)) is not None:
            statistics[id(node.outputs[0])] = statistic
    return found


def _applied(node: gs.Node, statistics: dict[int, _Statistic], whole: dict[int, int]) -> _Statistic | None:
    """The statistic that `node` applies to the tensor it was taken of."""
    if node.op not in _APPLIED or len(node.inputs) != 2:
        return None
    for tensor, other in (node.inputs, node.inputs[::-1]):
        statistic = statistics.get(id(other))
        if statistic is not None and whole.get(id(tensor), id(tensor)) in statistic.of:
            return statistic
    return None


def _statistic(node: gs.Node, statistics: dict[int, _Statistic], whole: dict[int, int]) -> _Statistic | None:
    if node.op in REDUCTIONS:
        return _reduction(node, whole)
    if node.op not in _POINTWISE | MOVERS:
        return None
    read = node.inputs[:1] if node.op in MOVERS else node.inputs
    variable = [tensor for tensor in read if isinstance(tensor, gs.Variable) and not tensor.is_empty()]
    known = [statistics[id(tensor)] for tensor in variable if id(tensor) in statistics]
    if not known or len(known) < len(variable):
        return None
    of = frozenset[int]().union(*(statistic.of for statistic in known))
    return _Statistic(of, frozenset({node.name}).union(*(statistic.nodes for statistic in known)))


def _reduction(node: gs.Node, whole: dict[int, int]) -> _Statistic:
    """Of its input, and of what the input is the square of."""
    read, square = [node.inputs[0]], _squared(node)
    if square is not None:
        read.append(square.inputs[0])
    names = frozenset({node.name, *([square.name] if square is not None else [])})
    return _Statistic(frozenset(whole.get(id(tensor), id(tensor)) for tensor in read), names)


def _squared(reduction: gs.Node) -> gs.Node | None:
    """The square that is reduced: a half holds that of 2e-4 to 255 only."""
    node = producer(reduction.inputs[0])
    square = node is not None and (node.op == "Pow" or (node.op == "Mul" and node.inputs[0] is node.inputs[1]))
    return node if square else None


def _affine(node: gs.Node) -> Iterator[gs.Node]:
    """A constant scale and a constant bias behind the norm, each the only reader of what is before it."""
    for op in ("Mul", "Add"):
        readers = node.outputs[0].outputs
        if len(readers) == 1 and readers[0].op == op and any(isinstance(t, gs.Constant) for t in readers[0].inputs):
            node = readers[0]
            yield node
