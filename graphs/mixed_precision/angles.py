"""What leads into Sin and Cos: an angle of many turns needs more bits than a half has.

A half of 1000 is off by up to 0.25, and no later FP32 brings that back. So the whole way to a large angle is FP32, from
the graph's inputs on, which are FP32 themselves: scales, tables of frequencies, outer products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_graphsurgeon as gs

from graphs.mixed_precision.held_values import GEMMS
from graphs.structure.flow import producer

SMALL_ANGLE = 4.0  # up to about half a turn, where rounding to a half costs no more than elsewhere
SHORT = 16  # an outer product or a few coordinates; what a longer sum is made of are features, not angles
_ENDS = frozenset({"LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization", "Softmax"})


def angle_nodes(graph: gs.Graph, maxima: Mapping[str, float]) -> set[str]:
    """The names of the nodes on the way to each Sin and Cos whose angle is large.

    `maxima`: tensor -> largest magnitude seen; an angle that was not measured counts as large.
    """
    waiting = [
        node.inputs[0]
        for node in graph.nodes
        if node.op in ("Sin", "Cos") and maxima.get(node.inputs[0].name, math.inf) > SMALL_ANGLE
    ]
    found: set[str] = set()
    while waiting:
        node = producer(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += [] if _ends(node) else node.inputs
    return found


def _ends(node: gs.Node) -> bool:
    if node.op in _ENDS:
        return True
    return node.op in GEMMS and not _is_short(node)


def _is_short(gemm: gs.Node) -> bool:
    """Whether few products are summed; a convolution never is, an Einsum or unknown size may be anything."""
    shape = gemm.inputs[0].shape
    axis = -2 if gemm.attrs.get("transA") else -1
    size = shape[axis] if gemm.op in ("MatMul", "Gemm") and shape is not None and len(shape) > 1 else None
    return isinstance(size, int) and size <= SHORT
