"""`x * cos + swapped(x) * sin` -> `com.microsoft.RotaryEmbedding(x)`.

    before  rows -> Reshape -> Transpose -> x [B, H, N, hd] -> Split, Concat, Reshape, 2 x Mul, Add
    after   rows -> RotaryEmbedding -> Reshape -> Transpose, and attention reads the rows where it can

One pass over a tensor that the primitives read and write five times. Where x is no mere view of rows (a norm of each
head stands in between, say), it is rotated as [B, H, N, hd]. Equal to rounding.
Constraints: constant tables that turn both channels of a pair by one angle. Tokens that are not turned (registers) have
cosine 1 and sine 0, and cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, redirect
from graphs.names import own_name, site_of
from graphs.outside_readers import take_name
from graphs.rewrite import Match, Miss
from graphs.rewrites.runtime.head_rows import KERNEL_TYPES, view_of_rows
from graphs.structure.flow import producer
from graphs.structure.head_paths import Heads, Rotation, rotation_of

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RotateAtOnce:
    name: str = "rotate_at_once"

    def match(self, node: gs.Node) -> Match | Miss | None:
        """The site is the sum of what is turned."""
        found = _rotated(node) if node.op == "Add" else None
        if found is None:
            return None
        x, rotation = found
        if x.dtype not in KERNEL_TYPES:
            return Miss(f"ONNX Runtime has no kernel that rotates {x.dtype}", node.name)
        tables = _half_tables(rotation)
        if tables is None:
            return Miss("its tables turn the two channels of a pair by different angles", node.name)
        return Match(node, {"x": x, "swap": rotation.swap, "tables": tables})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, x, old = match.node, match.found["x"], match.node.outputs[0]
        build, own = NodeBuilder(graph, "runtime", site_of(node)), own_name(node)
        _, heads, tokens, size = x.shape
        cosines, sines = (np.broadcast_to(table, (tokens, size // 2)) for table in match.found["tables"])
        tables = [build.constant(f"{own}.{role}", t.astype(x.dtype)) for role, t in (("cos", cosines), ("sin", sines))]
        rows = view_of_rows(x)
        source = x if rows is None else rows
        turned = build.contrib(
            "RotaryEmbedding",
            [source, build.ints(f"{own}.first", 0), *tables],
            f"{own}.turned",
            num_heads=heads,
            interleaved=int(match.found["swap"] == "pairs"),
        )
        turned.dtype, turned.shape = source.dtype, source.shape
        if rows is not None:
            parted = build.op("Reshape", [turned, build.ints(f"{own}.parted", 0, 0, heads, size)], f"{own}.heads")
            parted.dtype, parted.shape = x.dtype, [x.shape[0], tokens, heads, size]
            turned = build.op("Transpose", [parted], f"{own}.laid", perm=[0, 2, 1, 3])
            turned.dtype, turned.shape = old.dtype, old.shape
        take_name(turned, old)
        redirect(old, turned, graph, list(old.outputs))


def _rotated(add: gs.Node) -> tuple[gs.Tensor, Rotation] | None:
    """x [B, H, N, hd] and its rotation, where the node is the end of one."""
    for term in add.inputs:
        product = producer(term)
        for x in product.inputs if product is not None and product.op == "Mul" else ():
            if isinstance(x, gs.Constant) or x.shape is None or len(x.shape) != 4:
                continue
            if not all(isinstance(size, int) for size in x.shape[1:]):
                continue
            found = rotation_of(x, Heads(count=x.shape[1], tokens=x.shape[2], size=x.shape[3]))
            if found is not None and found[0] is add.outputs[0]:
                return x, found[1]
    return None


def _half_tables(rotation: Rotation) -> tuple[Array, Array] | None:
    """Cosines and sines [N or 1, hd / 2], one angle for each pair; the first channel of a pair takes the sine away."""
    first, second = (
        (slice(None, None, 2), slice(1, None, 2))
        if rotation.swap == "pairs"
        else (slice(None, rotation.cosines.shape[1] // 2), slice(rotation.cosines.shape[1] // 2, None))
    )
    cosines, sines = rotation.cosines, rotation.sines
    same = np.array_equal(cosines[:, first], cosines[:, second])
    if not same or not np.array_equal(-sines[:, first], sines[:, second]):
        return None
    return cosines[:, second], sines[:, second]
