"""Dividing the channels of a tensor by constants without a node of its own: the division moves into the weights that
made the tensor.

    norm weight, AdaLN rows (scale and shift), value projection, up projection  ->  the same, divided

Exact in real arithmetic. It goes back through additions (both sides), products (one side), splits, transposes, reshapes
and products with activations, and ends in constants. A tensor that anything else reads is never changed.
Source of the use: SmoothQuant (arXiv 2211.10438), which folds into a preceding LayerNorm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.constants import constant_value
from graphs.names import changed_name
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
_PASSING = frozenset({"Identity"})


@dataclass(frozen=True)
class Edit:
    """Input `index` of `node` gets its constant divided by `divisor` (which broadcasts against it)."""

    node: gs.Node
    index: int
    divisor: Array


def division(tensor: gs.Tensor, divisor: Array, readers: int = 1) -> list[Edit] | None:
    """The edits that divide `tensor` [..., K] by `divisor` [K], or None where that can't be folded.

    `readers` is how many nodes may read `tensor` itself: those that know of the division.
    """
    shape = tensor.shape
    if shape is None or isinstance(tensor, gs.Constant):
        return None
    return _divide(tensor, divisor.reshape((1,) * (len(shape) - 1) + (-1,)), readers)


def apply_edits(edits: list[Edit]) -> None:
    """Writes divided copies of the constants; a constant that other nodes read too stays as it is for them."""
    for edit in edits:
        divide_constant(edit.node, edit.index, edit.divisor)


def divide_constant(node: gs.Node, index: int, divisor: Array) -> None:
    """Gives `node` a constant of its own for input `index`, divided; values in a file are not read."""
    node.inputs[index] = _divided_constant(node.inputs[index], divisor, changed_name("smooth", node.name, index))


def _divided_constant(tensor: gs.Tensor, divisor: Array, name: str) -> gs.Constant:
    if isinstance(tensor, gs.Constant) and isinstance(tensor._values, StoredValues):
        return gs.Constant(name, tensor._values.divided(divisor))
    value = constant_value(tensor)
    assert value is not None  # as `division` found it
    divided = np.asarray(value / divisor, np.float32)
    if divided.size == value.size:  # runtimes know a norm by the shape of its weight
        divided = divided.reshape(value.shape)
    return gs.Constant(name, divided)


def _divide(tensor: gs.Tensor, by: Array, readers: int = 1) -> list[Edit] | None:
    """`by` has as many axes as `tensor`, of size 1 or of the axis they divide."""
    if (by == 1).all():
        return []
    if not tensor.inputs or len(tensor.outputs) > readers:
        return None
    node = tensor.inputs[0]
    rule = _RULES.get(node.op)
    return None if rule is None else rule(node, tensor, by)


def _source(node: gs.Node, index: int, by: Array) -> list[Edit] | None:
    """Divides what `node` reads: a constant by an edit, a tensor by going on."""
    source = node.inputs[index]
    if isinstance(source, gs.Constant) or constant_value(source) is not None:
        return [Edit(node, index, by)]
    if source.shape is None or len(source.shape) < np.ndim(by):
        trimmed = _trimmed(by, 0 if source.shape is None else len(source.shape))
        return None if source.shape is None or trimmed is None else _divide(source, trimmed)
    return _divide(source, by)


def _trimmed(by: Array, rank: int) -> Array | None:
    """`by` without leading axes of size 1, down to `rank` axes."""
    extra = by.ndim - rank
    return by.reshape(by.shape[extra:]) if extra >= 0 and all(size == 1 for size in by.shape[:extra]) else None


def _product(node: gs.Node, _: gs.Tensor, by: Array) -> list[Edit] | None:
    """Either side; a constant first, which costs nothing."""
    order = sorted((0, 1), key=lambda index: not isinstance(node.inputs[index], gs.Constant))
    for index in order:
        edits = _source(node, index, by)
        if edits is not None:
            return edits
    return None


def _sum(node: gs.Node, _: gs.Tensor, by: Array) -> list[Edit] | None:
    """Both sides."""
    if node.inputs[0] is node.inputs[1]:
        return None
    sides = [_source(node, index, by) for index in (0, 1)]
    return None if sides[0] is None or sides[1] is None else [*sides[0], *sides[1]]


def _quotient(node: gs.Node, _: gs.Tensor, by: Array) -> list[Edit] | None:
    return _source(node, 0, by)


def _matmul(node: gs.Node, _: gs.Tensor, by: Array) -> list[Edit] | None:
    """Columns of the right side; a division along another axis than the last is none of it."""
    right = node.inputs[1]
    if any(size != 1 for size in by.shape[:-1]):
        heads = by.shape[-2] == 1 and right.shape is not None and len(right.shape) == by.ndim  # [batch, heads, 1, d]
        return _divide(right, by) if heads and not isinstance(right, gs.Constant) else None
    if isinstance(right, gs.Constant):
        return [Edit(node, 1, by.reshape(1, -1))] if len(right.shape) == 2 else None
    return None if right.shape is None or len(right.shape) != by.ndim else _divide(right, by)


def _gemm(node: gs.Node, _: gs.Tensor, by: Array) -> list[Edit] | None:
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or by.shape[0] != 1:
        return None
    edits = [Edit(node, 1, by.reshape(-1, 1) if node.attrs.get("transB", 0) else by.reshape(1, -1))]
    if len(node.inputs) > 2:
        if constant_value(node.inputs[2]) is None:
            return None
        edits.append(Edit(node, 2, by.reshape(-1)))
    return edits


def _split(node: gs.Node, tensor: gs.Tensor, by: Array) -> list[Edit] | None:
    """The other parts are left as they are: divided by one."""
    axis = int(node.attrs.get("axis", 0)) % by.ndim
    whole, part = node.inputs[0].shape, tensor.shape
    if whole is None or not isinstance(whole[axis], int) or not isinstance(part[axis], int):
        return None
    if by.shape[axis] == 1:
        return None
    start = 0
    for other in node.outputs:
        if other is tensor:
            break
        if other.shape is None or not isinstance(other.shape[axis], int):
            return None
        start += other.shape[axis]
    sizes = list(by.shape)
    sizes[axis] = whole[axis]
    full = np.ones(sizes, by.dtype)
    index = [slice(None)] * by.ndim
    index[axis] = slice(start, start + part[axis])
    full[tuple(index)] = by
    return _source(node, 0, full)


def _transpose(node: gs.Node, _: gs.Tensor, by: Array) -> list[Edit] | None:
    order = list(node.attrs.get("perm", range(by.ndim)[::-1]))
    return _source(node, 0, np.transpose(by, np.argsort(order)))


def _reshape(node: gs.Node, tensor: gs.Tensor, by: Array) -> list[Edit] | None:
    """Channels split into heads, or joined again: the divided axes must be the last ones, whole."""
    before, after = node.inputs[0].shape, tensor.shape
    if before is None or after is None:
        return None
    first = next((i for i, size in enumerate(by.shape) if size != 1), by.ndim)
    count, taken = math.prod(by.shape[first:]), 1
    if any(isinstance(size, str) for size in after[first:]) or math.prod(after[first:]) != count:
        return None
    start = len(before)
    while start > 0 and taken < count:
        start -= 1
        if not isinstance(before[start], int):
            return None
        taken *= before[start]
    if taken != count:
        return None
    full = np.broadcast_to(by, (1,) * first + tuple(after[first:]))
    return _source(node, 0, full.reshape((1,) * start + tuple(before[start:])))


def _axis_moved(node: gs.Node, _: gs.Tensor, by: Array) -> list[Edit] | None:
    """Unsqueeze: the new axes have size 1 in `by` as well."""
    axes = constant_value(node.inputs[1])
    if axes is None:
        return None
    gone = {int(axis) % by.ndim for axis in axes.ravel()}
    if any(by.shape[axis] != 1 for axis in gone):
        return None
    return _source(node, 0, by.reshape([size for axis, size in enumerate(by.shape) if axis not in gone]))


def _through(node: gs.Node, _: gs.Tensor, by: Array) -> list[Edit] | None:
    return _source(node, 0, by)


_RULES = {
    "Add": _sum,
    "Sub": _sum,
    "Mul": _product,
    "Div": _quotient,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Split": _split,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Unsqueeze": _axis_moved,
    **dict.fromkeys(_PASSING, _through),
}
