"""What a register has where a block is given something for each token: the one place where that is defined.

A register stands nowhere: tables of rotations leave it as it is (cos 1, sin 0). What is the same for all tokens of the
image (a modulation, an id, a mask that hides none of them) is the same for registers. A mask that hides some hides no
register. Where a block turns by angles, or adds a place to its tokens itself, a register has 0; that is seen by calling
the block (`uses`). Anything else has no meaning for a register.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["like", "value", "seen", "eye", "stacked", "own"]
HIDDEN = -1e3  # what a float mask adds where nothing may be seen is far below
ROUNDING = 1e-4
SAME = 1e-6  # what one product makes of equal rows may differ in the last bits


@dataclass(frozen=True)
class Fill:
    """`like`: the first entry of the image's tokens; `value`, or `seen`, the value of a mask that hides nothing, where
    `hidden` would hide; `eye`: rotations as matrices [..., 2, 2]; `stacked`: cosines, then sines, along the axis
    `value`; `own`: what the model put there, as in tokens of an earlier block."""

    kind: Kind
    value: complex | bool | float = 0
    hidden: bool | float = 0

    def entries(self, leaf: Tensor, axis: int, first: int, count: int) -> Tensor:
        """`count` entries along `axis`, whose entry `first` is that of a token of the image."""
        one = leaf.narrow(axis, first, 1)
        if self.kind in ("value", "seen"):
            one = torch.full((1,) * leaf.ndim, self.value, dtype=leaf.dtype).expand_as(one)
        elif self.kind == "eye":
            one = torch.eye(2, dtype=one.dtype).expand_as(one)
        elif self.kind == "stacked":
            half = one.narrow(int(self.value.real), 0, 1)
            one = torch.cat([torch.ones_like(half), torch.zeros_like(half)], int(self.value.real))
        return one.expand([count if i == axis else -1 for i in range(leaf.ndim)])


NONE = Fill("value", 0)
"""No angle, and no place that is added."""


def fill_of(
    index: int, calls: Sequence[Sequence[Any]], axes: Sequence[int], own: Sequence[Sequence[int]]
) -> Fill | None:
    """What registers have in leaf `index` of a block's call; None where that has no meaning.

    `calls` are the leaves of the same call for several inputs. `own` are the entries along each of `axes` that are
    the image's tokens'.
    """
    leaves = [leaves[index] for leaves in calls]
    turned = _rotation(index, calls, axes)
    if turned is not None:
        return turned
    if all(_alike(leaf, axis, rows) for leaf in leaves for axis, rows in zip(axes, own, strict=True)):
        return Fill("like")
    return _mask(leaves) if len(axes) == 1 else None


def _alike(leaf: Tensor, axis: int, rows: Sequence[int]) -> bool:
    """Whether the entries `rows` are one; of a single token nothing is known to be common to all."""
    if len(rows) < 2:
        return False
    chosen = leaf.index_select(axis, torch.tensor(rows))
    first = chosen.narrow(axis, 0, 1).expand_as(chosen)
    if not leaf.is_floating_point():
        return bool((chosen == first).all())
    finite = chosen[chosen.isfinite()]
    rounding = SAME * float(finite.abs().max()) if len(finite) else 0.0
    return torch.allclose(chosen, first, rtol=0, atol=rounding)


def _rotation(index: int, calls: Sequence[Sequence[Any]], axes: Sequence[int]) -> Fill | None:
    leaf = calls[0][index]
    if leaf.is_complex():
        return Fill("value", 1) if _one(leaf.abs()) else None
    if not leaf.is_floating_point():
        return None
    if leaf.shape[-2:] == (2, 2) and not {leaf.ndim - 1, leaf.ndim - 2} & set(axes):
        turned = leaf @ leaf.mT
        if _one(turned[..., 0, 0]) and _one(turned[..., 1, 1]) and _one(torch.linalg.det(leaf)):
            return Fill("eye")
    for other, each in enumerate(calls[0]):
        if other != index and isinstance(each, Tensor) and each.shape == leaf.shape and each.dtype == leaf.dtype:
            length = _length(each.square() + leaf.square())
            if length is not None:
                return _cosine_or_sine(leaf, each, length, before=index < other)
    for axis in range(leaf.ndim):
        if axis not in axes and leaf.shape[axis] == 2 and _one(leaf.square().sum(axis)):
            cosines = _cosine_or_sine(leaf.select(axis, 0), leaf.select(axis, 1), 1, before=True)
            return None if cosines is None else Fill("stacked", axis)
    return None


def _one(values: Tensor) -> bool:
    return bool(((values - 1).abs() < ROUNDING).all())


def _length(squares: Tensor) -> float | None:
    """Whether all are one number, and its root: some tables of rotations also make what they turn longer."""
    mean = float(squares.mean())
    return mean**0.5 if mean > 0 and _one(squares / mean) else None


def _cosine_or_sine(leaf: Tensor, other: Tensor, length: float, *, before: bool) -> Fill | None:
    """`length` for cosines, 0 for sines, by what is true of them: near angle 0 cosines are 1; and they come first.

    None where the two disagree.
    """
    larger = bool(leaf.mean() > other.mean())
    return Fill("value", round(length, 6) if before else 0) if larger == before else None


def _mask(leaves: Sequence[Tensor]) -> Fill | None:
    if all(leaf.dtype == torch.bool for leaf in leaves):
        return Fill("seen", True, False)
    if any(leaf.is_complex() for leaf in leaves):
        return None
    values = torch.unique(torch.cat([leaf.flatten() for leaf in leaves]))
    if values.is_floating_point() and bool((values == 0).any()) and bool((values[values != 0] < HIDDEN).all()):
        return Fill("seen", 0, float(values.min()))
    return Fill("seen", 1) if values.tolist() in ([0, 1], [0.0, 1.0]) else None
