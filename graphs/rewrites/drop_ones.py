"""`x * 1` -> `x`, with one number a row: what is left of an attention mask that closes no row.

Exact. Constraints: every element of the constant is 1, its last axis is 1 (a norm's scale is left alone), and the
product is no larger than `x`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphs.builders import redirect
from graphs.rewrite import Match, Miss


@dataclass(frozen=True)
class DropOnes:
    name: str = "drop_ones"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "Mul":
            return None
        for x, factor in (node.inputs, node.inputs[::-1]):
            if isinstance(factor, gs.Constant) and isinstance(x, gs.Variable) and _is_rows_of_one(factor):
                if x.shape is None or list(x.shape) != list(node.outputs[0].shape or ()):
                    return Miss("its product is not known to have the shape of its input", node.name)
                return Match(node, {"x": x})
        return None

    def apply(self, graph: gs.Graph, match: Match) -> None:
        """An Identity where the product is an output of the graph, which keeps its name."""
        node, old = match.node, match.node.outputs[0]
        if any(output is old for output in graph.outputs):
            node.op, node.inputs = "Identity", [match.found["x"]]
        else:
            redirect(old, match.found["x"], graph, list(old.outputs))
            node.outputs.clear()


def _is_rows_of_one(factor: gs.Constant) -> bool:
    shape = list(factor.shape)
    return len(shape) > 1 and shape[-1] == 1 and bool(np.all(np.asarray(factor.values) == 1))
