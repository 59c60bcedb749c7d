"""`Reshape(Transpose(Reshape(x, [-1, M, K]), [0, 2, 1]), [..., K, M])` -> `Transpose(x)` of its last two axes.

How torch.onnx writes `k.transpose(-2, -1)` where the leading axes [batch, heads] are open. ONNX Runtime then reads the
keys transposed within the MatMul; through the Reshapes it copies them first.
Constraints: the last Reshape restores the very axes that the first one merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, replace_output
from graphs.names import own_name, site_of
from graphs.rewrite import Match, Miss
from graphs.structure.flow import producer


@dataclass(frozen=True)
class TransposeKeys:
    name: str = "transpose_keys"

    def match(self, node: gs.Node) -> Match | Miss | None:
        swap = producer(node.inputs[0]) if node.op == "Reshape" else None
        merge = producer(swap.inputs[0]) if swap is not None and swap.op == "Transpose" else None
        if swap is None or merge is None or merge.op != "Reshape" or swap.attrs.get("perm") != [0, 2, 1]:
            return None
        x = merge.inputs[0]
        if x.shape is None or merge.outputs[0].shape is None or len(x.shape) < 3:
            return Miss("the shape of what it transposes is not known", node.name)
        *leading, rows, columns = x.shape
        if list(merge.outputs[0].shape[1:]) != [rows, columns] or not isinstance(rows, int):
            return Miss("its first Reshape merges other than the leading axes", node.name)
        if not _equal(node.outputs[0].shape or (), [*leading, columns, rows]):
            return Miss("its last Reshape does not restore the leading axes", node.name)
        return Match(node, {"x": x})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, x, old = match.node, match.found["x"], match.node.outputs[0]
        rank = len(x.shape)
        build = NodeBuilder(graph, "optimize", site_of(node))
        perm = [*range(rank - 2), rank - 1, rank - 2]
        swapped = build.op("Transpose", [x], f"{own_name(node)}.swapped", perm=perm)
        swapped.dtype, swapped.shape = old.dtype, old.shape
        replace_output(node, swapped, graph)


def _equal(shape: Sequence[int | str], other: Sequence[int | str]) -> bool:
    """Whether two shapes of as many elements are the same: one open axis may have a name of its own in each."""
    if len(shape) != len(other):
        return False
    different = [pair for pair in zip(shape, other, strict=True) if pair[0] != pair[1]]
    return not different or (len(different) == 1 and not any(isinstance(size, int) for size in different[0]))
