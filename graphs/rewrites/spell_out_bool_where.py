"""`Where(c, a, b)` over booleans -> `Or(And(c, a), And(Not(c), b))`.

ONNX Runtime's CPU provider has no Where over booleans. Exact; broadcast as Where does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, replace_output
from graphs.names import own_name, site_of
from graphs.rewrite import Match, Miss


@dataclass(frozen=True)
class SpellOutBoolWhere:
    name: str = "spell_out_bool_where"

    def match(self, node: gs.Node) -> Match | Miss | None:
        chooses = node.op == "Where" and any(tensor.dtype == np.bool_ for tensor in node.inputs[1:])
        return Match(node) if chooses else None

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, (condition, first, second) = match.node, match.node.inputs
        build, own = NodeBuilder(graph, "optimize", site_of(node)), own_name(node)
        taken = build.op("And", [condition, first], f"{own}.taken")
        other = build.op("Not", [condition], f"{own}.other")
        left = build.op("And", [other, second], f"{own}.left")
        chosen = build.op("Or", [taken, left], f"{own}.chosen")
        for made in (taken, other, left, chosen):
            made.dtype = np.dtype(np.bool_)
        replace_output(node, chosen, graph)
