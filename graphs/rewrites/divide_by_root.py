"""`x * Reciprocal(Sqrt(v))` -> `x / Sqrt(v)`, in an RMSNorm: `v = ReduceMean(Pow(x, 2), -1) + eps`, times a weight [D].

As `torch.rsqrt` is exported, ONNX Runtime runs six nodes and two passes over the tokens; in the new form it fuses all
of it into one SimplifiedLayerNormalization. Equal in real arithmetic, so to float32 rounding.
Constraints: exactly that form, since a Div costs more than a Mul where nothing fuses. A norm whose mean of squares
comes from a detection (`graphs.dsr.shared_norms`) has no ReduceMean, and is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, replace_output
from graphs.constants import constant_value
from graphs.names import own_name, site_of
from graphs.outside_readers import only_reader
from graphs.rewrite import Match, Miss
from graphs.structure.flow import producer
from graphs.structure.norm_reads import reduced_axes


@dataclass(frozen=True)
class DivideByRoot:
    name: str = "divide_by_root"

    def match(self, node: gs.Node) -> Match | Miss | None:
        found = _normalised(node)
        if found is None:
            return None
        x, root = found
        if not _is_mean_square(root.inputs[0], x):
            return Miss("what it divides by is no mean of its squares plus a constant", node.name)
        if not _is_weighted(node):
            return Miss("its only reader is no Mul by a constant weight", node.name)
        return Match(node, {"x": x, "root": root.outputs[0]})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, old = match.node, match.node.outputs[0]
        build = NodeBuilder(graph, "optimize", site_of(node))
        quotient = build.op("Div", [match.found["x"], match.found["root"]], f"{own_name(node)}.quotient")
        quotient.dtype, quotient.shape = old.dtype, old.shape
        replace_output(node, quotient, graph)


def _normalised(node: gs.Node) -> tuple[gs.Tensor, gs.Node] | None:
    """x and the Sqrt, where `node` is `x * Reciprocal(Sqrt(.))`."""
    if node.op != "Mul":
        return None
    for x, factor in (node.inputs, node.inputs[::-1]):
        inverse = producer(factor)
        root = producer(inverse.inputs[0]) if inverse is not None and inverse.op == "Reciprocal" else None
        if root is not None and root.op == "Sqrt":
            return x, root
    return None


def _is_mean_square(tensor: gs.Tensor, x: gs.Tensor) -> bool:
    """Whether `tensor` is ReduceMean(Pow(x, 2)) over the channels, plus a constant."""
    added = producer(tensor)
    if added is None or added.op != "Add":
        return False
    means = [maker for each in added.inputs if (maker := producer(each)) is not None and maker.op == "ReduceMean"]
    if len(means) != 1 or all(constant_value(each) is None for each in added.inputs):
        return False
    square, rank = producer(means[0].inputs[0]), len(x.shape or ())
    return square is not None and _is_square(square, x) and rank > 0 and reduced_axes(means[0]) == [rank - 1]


def _is_square(node: gs.Node, x: gs.Tensor) -> bool:
    exponent = constant_value(node.inputs[1]) if node.op == "Pow" and node.inputs[0] is x else None
    return exponent is not None and exponent.size == 1 and bool((exponent == 2).all())


def _is_weighted(node: gs.Node) -> bool:
    reader = only_reader(node.outputs[0])
    if reader is None or reader.op != "Mul":
        return False
    return any(isinstance(each, gs.Constant) and len(each.shape) == 1 for each in reader.inputs)
