"""q, k and v of one projection as one tensor [B, N, 3, H, hd]: rotated, scaled and laid out by one kernel.

    before  x W -> Add(bias) -> Split -> 3 x (Reshape -> Transpose), rotary embedding of q, of k, scale of q
    after   x W -> Reshape -> Add(bias) -> (x * cos + swapped(x) * sin) -> Split -> 3 x (Squeeze -> Transpose)

v has cosine 1 and sine 0, and the scale of the queries is in their tables. An engine makes one kernel of three, with as
many bytes. The bias is added behind the Reshape: in front of it the GEMM would take it, and the tensor be read twice.
Equal to rounding: one multiplication less for q. (An infinity in v becomes NaN in the channel beside it.)
Constraints: constant tables and scale, equal heads, and nothing else between the projection and attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, redirect
from graphs.constants import constant_value
from graphs.names import own_name, site_of
from graphs.outside_readers import only_reader
from graphs.precisions import HELD
from graphs.rewrite import Match, Miss
from graphs.structure.flow import producer
from graphs.structure.head_paths import HeadPath, Heads, head_path

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RotateTogether:
    name: str = "rotate_together"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "Split" or len(node.outputs) != 3:
            return None
        whole = node.inputs[0]
        paths = [head_path(output) for output in node.outputs]
        if all(path is None for path in paths):
            return None
        missing = next((i for i, path in enumerate(paths) if path is None), None)
        if missing is not None:
            return Miss(f"what is done to {'qkv'[missing]} is more than a rotation and a scale", node.name)
        parts = [path for path in paths if path is not None]
        swaps = {path.rotation.swap for path in parts if path.rotation is not None}
        if len({path.heads for path in parts}) != 1 or len(swaps) > 1 or not _thirds(node, parts[0].heads):
            return Miss("its parts have unequal heads or rotations", node.name)
        if any(path.end.dtype != whole.dtype for path in parts):
            return Miss("its parts have other types than the whole", node.name)
        if only_reader(whole) is None:
            return Miss(f"others read {whole.name}", node.name)
        if not all(_is_held(path, whole.dtype) for path in parts):
            return Miss("a table times its scale is more or less than its type holds", node.name)
        return Match(node, {"parts": parts, "swap": next(iter(swaps), None)})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, parts = match.node, match.found["parts"]
        build = NodeBuilder(graph, "optimize", site_of(producer(node.inputs[0]) or node))
        own, heads = own_name(node), parts[0].heads
        joint = _joint(build, own, node.inputs[0], heads, parts, match.found["swap"])
        columns = build.ops("Split", [joint], f"{own}.qkv", outputs=3, axis=2, num_outputs=3)
        for column, path, role in zip(columns, parts, "qkv", strict=True):
            rows = build.op("Squeeze", [column, build.ints(f"{own}.axis_{role}", 2)], f"{own}.{role}_rows")
            laid = build.op("Transpose", [rows], f"{own}.{role}", perm=[0, 2, 1, 3])
            laid.dtype, laid.shape = path.end.dtype, path.end.shape
            redirect(path.end, laid, graph, list(path.end.outputs))


def _thirds(node: gs.Node, heads: Heads) -> bool:
    """Whether the last axis is cut into three equal parts of whole heads."""
    shape = node.inputs[0].shape
    last = shape is not None and len(shape) == 3 and node.attrs.get("axis", 0) in (-1, 2)
    return bool(last and all(out.shape and out.shape[-1] == heads.count * heads.size for out in node.outputs))


def _is_held(path: HeadPath, dtype: Any) -> bool:
    """Whether the type holds each table with the scale in it, as well as it holds the table."""
    held = HELD[onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))]
    tables = [np.ones(1)] if path.rotation is None else [path.rotation.cosines, path.rotation.sines]
    sizes = np.abs(np.concatenate([np.asarray(table, np.float64).ravel() for table in tables]) * path.scale)
    largest = float(sizes.max())
    return path.scale == 1 or largest == 0 or held.least <= largest <= held.largest


def _joint(
    build: NodeBuilder, own: str, whole: gs.Tensor, heads: Heads, parts: list[HeadPath], swap: str | None
) -> gs.Tensor:
    """[B, N, 3, H, hd] of all parts, rotated and scaled."""
    x, bias = _without_bias(whole)
    halved = _halved(heads.size, swap)
    pairs = build.op("Reshape", [x, build.ints(f"{own}.paired", -1, heads.tokens, 3, heads.count, *halved)], own)
    if bias is not None:
        rows = build.constant(f"{own}.bias", bias.reshape(3, heads.count, *halved))
        pairs = build.op("Add", [pairs, rows], f"{own}.biased")
    flat = build.ints(f"{own}.flat", -1, heads.tokens, 3, heads.count, heads.size)
    x = pairs if swap is None else build.op("Reshape", [pairs, flat], f"{own}.joint")
    cosines = _table(build, f"{own}.cosines", whole, heads, [_cosines(path, heads) for path in parts])
    if cosines is not None:
        x = build.op("Mul", [x, cosines], f"{own}.turned")
    if swap is None:
        return x
    axis = -1 if swap == "pairs" else -2
    first, second = build.ops("Split", [pairs], f"{own}.halves", outputs=2, axis=axis, num_outputs=2)
    stacked = build.op("Concat", [second, first], f"{own}.stacked", axis=axis)
    swapped = build.op("Reshape", [stacked, flat], f"{own}.swapped")
    sines = _table(build, f"{own}.sines", whole, heads, [_sines(path, heads) for path in parts])
    crossed = swapped if sines is None else build.op("Mul", [swapped, sines], f"{own}.crossed")
    return build.op("Add", [x, crossed], f"{own}.rotated")


def _halved(size: int, swap: str | None) -> tuple[int, ...]:
    """The channels of a head, parted as the swap wants them."""
    if swap is None:
        return (size,)
    return (size // 2, 2) if swap == "pairs" else (2, size // 2)


def _without_bias(whole: gs.Tensor) -> tuple[gs.Tensor, Array | None]:
    """What a constant vector is added to, and that vector; the tensor itself where there is none."""
    node = producer(whole)
    if node is not None and node.op == "Add":
        for x, other in (node.inputs, node.inputs[::-1]):
            known = constant_value(other)
            if known is not None and known.shape == (whole.shape[-1],) == tuple(x.shape or ())[-1:]:
                return x, known
    return whole, None


def _cosines(path: HeadPath, heads: Heads) -> Array:
    turned = np.ones((1, heads.size)) if path.rotation is None else np.asarray(path.rotation.cosines, np.float64)
    return np.broadcast_to(turned * path.scale, (heads.tokens, heads.size))


def _sines(path: HeadPath, heads: Heads) -> Array:
    crossed = np.zeros((1, heads.size)) if path.rotation is None else np.asarray(path.rotation.sines, np.float64)
    return np.broadcast_to(crossed * path.scale, (heads.tokens, heads.size))


def _table(build: NodeBuilder, role: str, like: gs.Tensor, heads: Heads, parts: list[Array]) -> gs.Constant | None:
    """[N, 3, 1, hd] in the type of `like`; [3, 1, 1] where a part has one value for all; None where all are 1."""
    if all((part == 1).all() for part in parts):
        return None
    if all((part == part[0, 0]).all() for part in parts):
        return build.constant(role, np.array([part[0, 0] for part in parts]).reshape(3, 1, 1).astype(like.dtype))
    return build.constant(role, np.stack(parts, axis=1)[:, :, None, :].astype(like.dtype))
