"""Norms over a token's channels, as one node or spelt out: how a pre-norm block reads its residual stream.

Spelt out, LayerNorm reads it by ReduceMean and `x - mean`, RMSNorm by `x^2`, `x * x` or ReduceL2, and `x * scale` or
`x / scale`, where mean and scale are columns [batch, N, 1] made of `x` itself.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from graphs.constants import constant_value
from graphs.structure.flow import Flow, axis_of, readers, source

NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare"})
_SCALED_BY_COLUMN = frozenset({"Sub", "Mul", "Div"})


def reads_past_norm(flow: Flow, stream: gs.Tensor, inside: Collection[gs.Node]) -> list[gs.Node]:
    """The nodes among `inside` that read `stream` [batch, N, D] other than as part of a norm over its channels."""
    chosen = {id(node) for node in inside}
    return [node for node, tensor in readers(stream) if id(node) in chosen and not _in_norm(flow, node, tensor)]


def _in_norm(flow: Flow, node: gs.Node, tensor: gs.Tensor) -> bool:
    if node.op in NORMS:
        return node.inputs[0] is tensor and axis_of(node, len(tensor.shape)) == len(tensor.shape) - 1
    if _is_square(node, tensor):
        return all(_reduces_channels(reader) for reader, _ in readers(node.outputs[0]))
    if node.op in _SCALED_BY_COLUMN:
        return any(_is_column(flow, other, source(tensor)) for other in node.inputs if other is not tensor)
    return _reduces_channels(node)


def _is_square(node: gs.Node, tensor: gs.Tensor) -> bool:
    if node.op == "Pow":
        return node.inputs[0] is tensor
    return node.op == "Mul" and all(source(each) is source(tensor) for each in node.inputs)


def _reduces_channels(node: gs.Node) -> bool:
    if node.op not in REDUCTIONS:
        return False
    rank = len(node.inputs[0].shape)
    return [axis % rank for axis in reduced_axes(node)] == [rank - 1]


def reduced_axes(node: gs.Node) -> list[int]:
    """The axes of a reduction, an attribute until opset 17 and an input since; all axes where neither is there."""
    given = constant_value(node.inputs[1]) if len(node.inputs) > 1 else node.attrs.get("axes")
    rank = len(node.inputs[0].shape)
    return list(range(rank)) if given is None else [int(axis) % rank for axis in np.ravel(given)]


def _is_column(flow: Flow, tensor: gs.Tensor, stream: gs.Tensor) -> bool:
    """Whether `tensor` [batch, N, 1] is a statistic of `stream`, taken over its channels."""
    if isinstance(tensor, gs.Constant) or not tensor.shape or tensor.shape[-1] != 1:
        return False
    return any(_reduces_channels(node) for node in flow.between(stream, tensor))
