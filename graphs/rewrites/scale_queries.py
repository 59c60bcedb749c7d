"""`(q * c) @ (k^T * d)` -> `(q * cd) @ k^T`: attention's scale belongs on the queries alone.

torch.onnx writes scaled_dot_product_attention with the root of the scale on both sides. The keys' half stands between
their transpose and the product: ONNX Runtime then copies the keys in FP16 graphs, and an engine gets a kernel more for
every block.
Constraints: both factors are constant scalars. Equal to rounding: one multiplication less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.constants import constant_value
from graphs.names import own_name, site_of
from graphs.rewrite import Match, Miss
from graphs.structure.flow import producer


@dataclass(frozen=True)
class ScaleQueries:
    name: str = "scale_queries"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "MatMul":
            return None
        queries, keys = (_scaled(tensor) for tensor in node.inputs)
        if keys is None:
            return None
        if queries is None:
            return Miss("its queries have no scale to join that of its keys", node.name)
        return Match(node, {"queries": queries, "keys": keys})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, (queries, first), (keys, second) = match.node, match.found["queries"], match.found["keys"]
        build, old = NodeBuilder(graph, "optimize", site_of(node)), node.inputs[0]
        scale = build.constant(f"{own_name(node)}.scale", np.asarray(float(first) * float(second), np.float32))
        scaled = build.op("Mul", [queries, scale], f"{own_name(node)}.scaled")
        scaled.dtype, scaled.shape = old.dtype, old.shape
        node.inputs = [scaled, keys]


def _scaled(tensor: gs.Tensor) -> tuple[gs.Tensor, float] | None:
    """What the tensor is a multiple of, and the factor."""
    node = producer(tensor)
    if node is None or node.op != "Mul" or tensor.dtype != np.float32:
        return None
    for other, factor in (node.inputs, node.inputs[::-1]):
        value = constant_value(factor) if not factor.shape or list(factor.shape) == [1] else None
        if value is not None and value.size == 1 and not isinstance(other, gs.Constant):
            return other, float(value.item())
    return None
