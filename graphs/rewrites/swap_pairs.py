"""`stack(-odd, even) * sin` -> `swapped(odd, even) * signed_sin`: rotary embeddings of interleaved channels.

    before  Reshape -> 2 x (Slice -> Squeeze) -> Neg -> 2 x Unsqueeze -> Concat -> Reshape -> Mul(sin)
    after   Reshape -> Split -> Concat -> Reshape -> Mul(sin * [-1, 1, -1, 1, ...])

Bit for bit the same: (-a) * s = a * (-s). Constraints: a constant table, which has a value for each channel.

Permuting q's and k's channels in the projection, so that halves are swapped rather than neighbours, would cost no less
in ONNX Runtime; it would take the projection's and the embedding's outputs away from those of their PyTorch modules.
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
class SwapPairs:
    name: str = "swap_pairs"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "Mul":
            return None
        for rotated, table in (node.inputs, node.inputs[::-1]):
            flat = producer(rotated)
            stack = producer(flat.inputs[0]) if flat is not None and flat.op == "Reshape" else None
            pairs = _rotated_pairs(stack) if stack is not None else None
            if flat is not None and pairs is not None:
                return _checked(node, flat, pairs, table)
        return None

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, flat, pairs, table = match.node, match.found["flat"], match.found["pairs"], match.found["table"]
        build, own = NodeBuilder(graph, "optimize", site_of(node)), own_name(node)
        even, odd = build.ops("Split", [pairs], f"{own}.pairs", outputs=2, axis=-1, num_outputs=2)
        stacked = build.op("Concat", [odd, even], f"{own}.stacked", axis=-1)
        swapped = build.op("Reshape", [stacked, flat.inputs[1]], f"{own}.swapped", **flat.attrs)
        swapped.dtype, swapped.shape = flat.outputs[0].dtype, flat.outputs[0].shape
        node.inputs = [swapped, _signed(graph, table)]


def _checked(node: gs.Node, flat: gs.Node, pairs: gs.Tensor, table: gs.Tensor) -> Match | Miss:
    channels = (flat.outputs[0].shape or (None,))[-1]
    if not isinstance(table, gs.Constant):
        return Miss("its sines are computed at run time", node.name)
    if not isinstance(channels, int) or not table.shape or table.shape[-1] != channels or channels % 2:
        return Miss(f"its sines have shape {list(table.shape)}, for {channels} channels", node.name)
    return Match(node, {"flat": flat, "pairs": pairs, "table": table})


def _rotated_pairs(stack: gs.Node) -> gs.Tensor | None:
    """The pairs [..., 2] that `stack` turns by a right angle: (even, odd) -> (-odd, even)."""
    if stack.op != "Concat" or len(stack.inputs) != 2 or stack.attrs["axis"] not in (-1, _last(stack.outputs[0])):
        return None
    columns = [producer(tensor) for tensor in stack.inputs]
    if any(column is None or column.op != "Unsqueeze" or not _is_last(column) for column in columns):
        return None
    minus, even = (producer(column.inputs[0]) for column in columns if column is not None)
    if minus is None or minus.op != "Neg" or even is None:
        return None
    odd = producer(minus.inputs[0])
    first, second = _member(even, 0), _member(odd, 1) if odd is not None else None
    return first if first is not None and first is second else None


def _member(squeeze: gs.Node, index: int) -> gs.Tensor | None:
    """The pairs [..., 2] whose member `index` it takes, by Slice or Split, and Squeeze."""
    if squeeze.op != "Squeeze" or not _is_last(squeeze):
        return None
    column = squeeze.inputs[0]
    take = producer(column)
    if take is None or take.op not in ("Slice", "Split"):
        return None
    pairs, last = take.inputs[0], _last(take.inputs[0])
    if last < 0 or pairs.shape[-1] != 2:
        return None
    if take.op == "Split":
        ours = take.attrs.get("axis", 0) in (-1, last) and len(take.outputs) == 2 and take.outputs[index] is column
        return pairs if ours else None
    bounds = [constant_value(tensor) for tensor in take.inputs[1:]]
    if any(bound is None or bound.size != 1 for bound in bounds) or len(bounds) < 3:
        return None
    start, _, axis, *step = (int(bound.item()) for bound in bounds if bound is not None)
    return pairs if axis in (-1, last) and start % 2 == index and step in ([], [1]) else None


def _is_last(node: gs.Node) -> bool:
    """Whether a Squeeze or an Unsqueeze takes away, or adds, the last axis and no other."""
    axes = constant_value(node.inputs[1]) if len(node.inputs) > 1 else None
    longer = node.inputs[0] if node.op == "Squeeze" else node.outputs[0]
    return axes is not None and axes.size == 1 and int(axes.item()) in (-1, _last(longer))


def _last(tensor: gs.Tensor) -> int:
    return len(tensor.shape) - 1 if tensor.shape else -2


def _signed(graph: gs.Graph, table: gs.Constant) -> gs.Constant:
    """`table` with the signs of the rotation; one for all nodes that read `table`."""
    signs = np.where(np.arange(table.shape[-1]) % 2, 1, -1).astype(table.dtype)
    made = NodeBuilder(graph, "optimize", "tables").constant(f"{table.name}.signed", np.zeros(0))
    found = graph.tensors().get(made.name)
    return found if isinstance(found, gs.Constant) else gs.Constant(made.name, np.asarray(table.values) * signs)
