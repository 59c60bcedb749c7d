"""Which tensors come straight from a norm over channels: their tokens have all about the same magnitude."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from graphs.structure.flow import PASSING, producer
from graphs.structure.norm_reads import NORMS
from graphs.structure.spelt_norms import spelt_norms

_MODULATING = frozenset({"Add", "Sub", "Mul"})


def norm_outputs(graph: gs.Graph, tensors: Iterable[gs.Tensor]) -> frozenset[str]:
    """The names of those `tensors` [batch, N, K] that a norm makes, scaled and shifted by anything of fewer rows.

    Needs inferred shapes and nodes in topological order.
    """
    spelt = spelt_norms(graph)
    return frozenset(str(tensor.name) for tensor in tensors if _is_norm_output(tensor, spelt))


def _is_norm_output(tensor: gs.Tensor, spelt: set[str]) -> bool:
    node = producer(tensor)
    if node is None:
        return False
    if node.op in NORMS or node.name in spelt:
        return True
    if node.op in PASSING:
        return _is_norm_output(node.inputs[0], spelt)
    if node.op not in _MODULATING or tensor.shape is None:
        return False
    whole = [each for each in node.inputs if each.shape is not None and list(each.shape) == list(tensor.shape)]
    return len(whole) == 1 and _is_norm_output(whole[0], spelt)
