"""Which tensors attention makes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphs.structure.flow import PASSING, producer
from graphs.structure.movers import MOVERS


def is_attended(tensor: gs.Tensor) -> bool:
    """Whether attention makes it, and nothing but moves lies between."""
    node = _past_moves(tensor)
    if node is None or node.op != "MatMul":
        return node is not None and node.op == "Attention"
    scores = _past_moves(node.inputs[0])
    return scores is not None and scores.op == "Softmax"


def _past_moves(tensor: gs.Tensor) -> gs.Node | None:
    node = producer(tensor)
    while node is not None and node.op in MOVERS | PASSING:
        node = producer(node.inputs[0])
    return node
