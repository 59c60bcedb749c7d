"""What happens to q, k or v between their projection and attention: heads, a rotary embedding, a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.constants import constant_value
from graphs.outside_readers import only_reader
from graphs.structure.flow import made_by, producer

Array = npt.NDArray[Any]
Swap = Literal["pairs", "halves"]


@dataclass(frozen=True)
class Heads:
    """`count` heads of `size` channels, for `tokens` rows."""

    tokens: int
    count: int
    size: int


@dataclass(frozen=True)
class Rotation:
    """`x * cosines + swapped(x) * sines`, tables [N or 1, hd]; `swap` exchanges neighbours, or the halves of a head."""

    swap: Swap
    cosines: Array
    sines: Array


@dataclass(frozen=True)
class HeadPath:
    """`end` [B, H, N, hd] is what attention reads, its keys before they are transposed."""

    heads: Heads
    end: gs.Tensor
    rotation: Rotation | None
    scale: float


def head_path(part: gs.Tensor) -> HeadPath | None:
    """The path of [B, N, H * hd] to attention; None where anything else is on it. For use within `outside_readers`."""
    rows = _next(part, "Reshape")
    laid = None if rows is None else _next(rows.outputs[0], "Transpose")
    if rows is None or laid is None or laid.attrs.get("perm") != [0, 2, 1, 3]:
        return None
    shape = rows.outputs[0].shape
    if shape is None or len(shape) != 4 or not all(isinstance(size, int) for size in shape[1:]):
        return None
    heads, start = Heads(*shape[1:]), laid.outputs[0]
    if len(start.outputs) == 1:
        return _scaled(heads, start, None)
    found = rotation_of(start, heads)
    return None if found is None else _scaled(heads, *found)


def _scaled(heads: Heads, end: gs.Tensor, rotation: Rotation | None) -> HeadPath | None:
    """With the multiplication by a constant behind it, where there is one."""
    reader = only_reader(end)
    if reader is not None and reader.op == "Mul":
        known = [value for tensor in reader.inputs if (value := constant_value(tensor)) is not None]
        if len(known) == 1 and known[0].size == 1:
            return HeadPath(heads, reader.outputs[0], rotation, float(known[0].item()))
    if rotation is None and (reader is None or reader.op not in ("MatMul", "Transpose")):
        return None  # a norm, say: a layout of its own would be a kernel more
    return HeadPath(heads, end, rotation, 1.0)


def rotation_of(x: gs.Tensor, heads: Heads) -> tuple[gs.Tensor, Rotation] | None:
    """The end of `x * cos + swapped(x) * sin`, x [B, H, N, hd], whose parts nothing else reads."""
    plain = next((node for node in x.outputs if node.op == "Mul"), None)
    total = None if plain is None else _next(plain.outputs[0], "Add")
    if plain is None or total is None:
        return None
    end: gs.Tensor = total.outputs[0]
    other = next((tensor for tensor in total.inputs if tensor is not plain.outputs[0]), None)
    crossed, cosines = None if other is None else producer(other), _table(plain, x, heads)
    if crossed is None or cosines is None or crossed.op != "Mul" or only_reader(crossed.outputs[0]) is not total:
        return None
    for rotated in crossed.inputs:
        sines = _table(crossed, rotated, heads)
        signs = None if sines is None else _swapped(rotated, x, heads.size)
        if sines is not None and signs is not None:
            return end, Rotation(signs[0], cosines, sines * signs[1])
    return None


def _table(node: gs.Node, x: gs.Tensor, heads: Heads) -> Array | None:
    """The other factor of the Mul `node`, as [N or 1, hd]: one table for all heads."""
    known = [constant_value(tensor) for tensor in node.inputs if tensor is not x]
    if len(known) != 1 or known[0] is None:
        return None
    table = known[0].reshape([1] * (4 - known[0].ndim) + list(known[0].shape)) if known[0].ndim < 4 else known[0]
    fits = table.ndim == 4 and table.shape[:2] == (1, 1) and table.shape[2] in (1, heads.tokens)
    return table[0, 0] if fits and table.shape[3] == heads.size else None


def _swapped(rotated: gs.Tensor, x: gs.Tensor, size: int) -> tuple[Swap, Array] | None:
    """How `rotated` exchanges the channels of `x`, and the sign that each has got on the way."""
    return _swapped_pairs(rotated, x, size) or _swapped_halves(rotated, x, size)


def _swapped_pairs(rotated: gs.Tensor, x: gs.Tensor, size: int) -> tuple[Swap, Array] | None:
    """Reshape -> Split -> Concat(odd, even) -> Reshape, as `SwapPairs` leaves it."""
    flat = made_by(rotated, "Reshape")
    stack = None if flat is None else made_by(flat.inputs[0], "Concat")
    split = None if stack is None or len(stack.inputs) != 2 else made_by(stack.inputs[0], "Split")
    pairs = None if split is None else made_by(split.inputs[0], "Reshape")
    if stack is None or split is None or pairs is None or pairs.inputs[0] is not x or len(split.outputs) != 2:
        return None
    if list(stack.inputs) != [split.outputs[1], split.outputs[0]]:
        return None
    if tuple(pairs.outputs[0].shape or ())[-2:] != (size // 2, 2) or size % 2:
        return None  # of several heads or tokens
    last = (-1, len(pairs.outputs[0].shape) - 1)
    if stack.attrs["axis"] not in last or split.attrs.get("axis", 0) not in last:
        return None
    return "pairs", np.ones(size)


def _swapped_halves(rotated: gs.Tensor, x: gs.Tensor, size: int) -> tuple[Swap, Array] | None:
    """Concat(-second, first), of halves that a Split or two Slices make."""
    stack = made_by(rotated, "Concat")
    if stack is None or len(stack.inputs) != 2 or stack.attrs["axis"] not in (-1, 3):
        return None
    signs, halves = [], []
    for tensor in stack.inputs:
        negated = made_by(tensor, "Neg")
        signs.append(1.0 if negated is None else -1.0)
        halves.append(_half(tensor if negated is None else negated.inputs[0], x, size))
    if halves != [1, 0]:
        return None
    return "halves", np.repeat(signs, size // 2)


def _half(tensor: gs.Tensor, x: gs.Tensor, size: int) -> int | None:
    """0 for the first half of the channels of `x`, 1 for the second."""
    node = producer(tensor)
    if node is None or node.op not in ("Split", "Slice") or node.inputs[0] is not x or size % 2:
        return None
    if tensor.shape is None or tensor.shape[-1] != size // 2:
        return None
    if node.op == "Split":
        whole = node.attrs.get("axis", 0) in (-1, 3) and len(node.outputs) == 2
        return [each is tensor for each in node.outputs].index(True) if whole else None
    bounds = [constant_value(each) for each in node.inputs[1:]]
    if len(bounds) < 3 or any(bound is None or bound.size != 1 for bound in bounds):
        return None
    start, _, axis, *step = (int(bound.item()) for bound in bounds if bound is not None)
    if axis not in (-1, 3) or step not in ([], [1]) or start % (size // 2):
        return None
    return start % size // (size // 2)


def _next(tensor: gs.Tensor, op: str) -> gs.Node | None:
    """The one reader, where it is of that type."""
    node = only_reader(tensor)
    return node if node is not None and node.op == op else None
