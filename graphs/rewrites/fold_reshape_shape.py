"""`Reshape(x, Concat(Slice(Shape(x)), ...))` -> `Reshape(x, [2, -1, 64])`: a shape that is known needs no nodes.

Shape inference carries the sizes through the nodes that compute the shape; where it leaves one dimension open at most
(the batch), that one is -1. TensorRT spends a dozen layers of its own on each shape that is computed.
Constraints: no other dimension is open, and none is 0, which would leave -1 undetermined.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.names import own_name, site_of
from graphs.rewrite import Match, Miss


@dataclass(frozen=True)
class FoldReshapeShape:
    name: str = "fold_reshape_shape"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "Reshape" or isinstance(node.inputs[1], gs.Constant):
            return None
        shape = node.outputs[0].shape
        if shape is None:
            return Miss("its output has no inferred rank", node.name)
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        if sizes.count(-1) > 1:
            return Miss(f"{sizes.count(-1)} dimensions of its output are open", node.name)
        if 0 in sizes:
            return Miss("its output is empty", node.name)
        return Match(node, {"sizes": sizes})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node = match.node
        build = NodeBuilder(graph, "optimize", site_of(node))
        node.inputs[1] = build.ints(f"{own_name(node)}.shape", *match.found["sizes"])
