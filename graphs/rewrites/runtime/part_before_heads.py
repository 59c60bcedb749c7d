"""q, k and v of one projection parted as rows, before they are laid out as heads.

    before  x [B, N, P * H * hd] -> Reshape [B, N, P, H, hd] -> Transpose [P, B, H, N, hd] -> P x (Slice -> Squeeze)
    after   x -> Split -> P x (Reshape -> Transpose), heads [B, H, N, hd] each

How `qkv.reshape(B, N, 3, H, hd).permute(2, 0, 3, 1, 4).unbind(0)` arrives. Attention and rotary embeddings take rows as
they are, and the projection is parted: the layouts are gone where those match. Bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, redirect
from graphs.constants import constant_value
from graphs.names import own_name, site_of
from graphs.outside_readers import only_reader, take_name
from graphs.rewrite import Match, Miss
from graphs.rewrites.runtime.head_rows import HEADS_FIRST
from graphs.structure.flow import made_by

_PARTS_FIRST = [2, 0, 3, 1, 4]


@dataclass(frozen=True)
class PartBeforeHeads:
    name: str = "part_before_heads"

    def match(self, node: gs.Node) -> Match | Miss | None:
        """The site is the Transpose."""
        if node.op != "Transpose" or node.attrs.get("perm") != _PARTS_FIRST:
            return None
        parted, reshaped = node.inputs[0], made_by(node.inputs[0], "Reshape")
        if reshaped is None or parted.shape is None or not all(isinstance(size, int) for size in parted.shape[1:]):
            return Miss("it does not lay out rows of a known size", node.name)
        rows, (_, tokens, count, heads, size) = reshaped.inputs[0], parted.shape
        if list(rows.shape or ())[1:] != [tokens, count * heads * size]:
            return Miss("it does not lay out rows of all its parts", node.name)
        parts = [part for reader in node.outputs[0].outputs for part in _parts(reader, count)]
        if any(part is None for part in parts):
            return Miss("it is read other than part by part", node.name)
        return Match(node, {"rows": rows, "parts": parts, "count": count, "heads": heads, "size": size})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, rows, count = match.node, match.found["rows"], match.found["count"]
        heads, size = match.found["heads"], match.found["size"]
        batch, tokens, _ = rows.shape
        build, own = NodeBuilder(graph, "runtime", site_of(node)), own_name(node)
        whole = build.ops("Split", [rows], f"{own}.parts", outputs=count, axis=-1, num_outputs=count)
        for index, old in match.found["parts"]:
            part = whole[index]
            part.dtype, part.shape = rows.dtype, [batch, tokens, heads * size]
            parted = build.op("Reshape", [part, build.ints(f"{own}.heads", 0, 0, heads, size)], f"{own}.rows")
            parted.dtype, parted.shape = rows.dtype, [batch, tokens, heads, size]
            laid = build.op("Transpose", [parted], f"{own}.laid", perm=HEADS_FIRST)
            laid.dtype, laid.shape = old.dtype, old.shape
            take_name(laid, old)
            redirect(old, laid, graph, list(old.outputs))


def _parts(reader: gs.Node, count: int) -> Iterator[tuple[int, gs.Tensor] | None]:
    """Which of `count` parts a reader takes, and the tensor without their axis; None where it takes anything else."""
    if reader.op == "Gather" and reader.attrs.get("axis", 0) == 0:
        index = constant_value(reader.inputs[1])
        yield None if index is None or index.ndim else (int(index) % count, reader.outputs[0])
    elif reader.op == "Slice":
        start = _one_part(reader, count)
        yield None if start is None else _squeezed(start, reader.outputs[0])
    elif reader.op == "Split" and reader.attrs.get("axis", 0) == 0 and len(reader.outputs) == count:
        yield from (_squeezed(i, part) for i, part in enumerate(reader.outputs))
    else:
        yield None


def _one_part(node: gs.Node, count: int) -> int | None:
    """The index of the one part that a Slice takes along the first axis."""
    bounds = [constant_value(each) for each in node.inputs[1:]]
    if len(bounds) < 3 or any(bound is None or bound.size != 1 for bound in bounds):
        return None
    start, end, axis, *step = (int(bound.item()) for bound in bounds if bound is not None)
    start, end = (each + count if each < 0 else min(each, count) for each in (start, end))
    return start if axis == 0 and step in ([], [1]) and end == start + 1 else None


def _squeezed(index: int, part: gs.Tensor) -> tuple[int, gs.Tensor] | None:
    reader = only_reader(part)
    axes = (
        None if reader is None or reader.op != "Squeeze" or len(reader.inputs) < 2 else constant_value(reader.inputs[1])
    )
    return None if reader is None or axes is None or axes.tolist() != [0] else (index, reader.outputs[0])
