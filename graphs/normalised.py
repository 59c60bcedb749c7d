"""Whether a tensor comes straight from a norm, so that no token's magnitude can grow without bound."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphs.constants import constant_value

_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_MODULATION = frozenset({"Add", "Sub", "Mul", "Identity"})
LONGEST = 8  # nodes from a norm to a GEMM: weight, scale, shift, and what lies between


def is_normalised(tensor: gs.Tensor, left: int = LONGEST) -> bool:
    """`tensor` [B, N, K] is a norm's output, scaled and shifted by what all tokens share."""
    if not tensor.inputs or left == 0 or tensor.shape is None:
        return False
    node = tensor.inputs[0]
    if node.op in _NORMS:
        return True
    if node.op == "Div" and _per_token(node.inputs[1]):
        return True
    if node.op == "Mul" and any(_per_token(each) for each in node.inputs):
        return True
    if node.op not in _MODULATION:
        return False
    own = [each for each in node.inputs if not _shared(each)]
    return len(own) == 1 and is_normalised(own[0], left - 1)


def _per_token(tensor: gs.Tensor) -> bool:
    """[B, N, 1]: one factor for each token, as a norm makes it."""
    shape = tensor.shape
    return bool(tensor.inputs) and shape is not None and len(shape) == 3 and shape[2] == 1 and shape[1] != 1


def _shared(tensor: gs.Tensor) -> bool:
    """The same for every token: a constant, or a condition [B, 1, K]."""
    if isinstance(tensor, gs.Constant):
        return True
    shape = tensor.shape
    return (shape is not None and len(shape) == 3 and shape[1] == 1) or constant_value(tensor) is not None
