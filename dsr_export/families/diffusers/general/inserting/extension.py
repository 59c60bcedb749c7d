"""Arguments of a block with entries for registers: which of their axes follow the tokens, and what stands there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from dsr_export.families.diffusers.general.inserting.calls import Called, near, with_rows
from dsr_export.families.diffusers.general.inserting.fills import NONE, Fill, fill_of

MOST_READINGS = 64


@dataclass(frozen=True)
class Axis:
    """An axis with an entry for each token: registers' come before entry `at`.

    `grown`: once there are registers, the model makes it as long itself, and their entries are overwritten.
    `own` are the entries of the image's tokens, without registers; `drawn` those that are no padding among them.
    """

    axis: int
    at: int
    grown: bool
    own: tuple[int, ...]
    drawn: tuple[int, ...]


@dataclass(frozen=True)
class Extended:
    """A leaf of a block's call, its axes and what registers have there; a number is `count` larger."""

    leaf: int
    axes: tuple[Axis, ...]
    fill: Fill | None = None

    def of(self, value: Any, count: int) -> Any:
        if not isinstance(value, Tensor):
            return value + count
        assert self.fill is not None
        if self.fill.kind == "own":
            return value
        for each in self.axes:
            tail = each.at + count if each.grown else each.at
            added = self.fill.entries(value, each.axis, tail + each.drawn[0] - each.at, count)
            size = value.shape[each.axis]
            parts = [value.narrow(each.axis, 0, each.at), added, value.narrow(each.axis, tail, size - tail)]
            value = torch.cat([part for part in parts if part.shape[each.axis]], each.axis)
        return value


Extension = tuple[Extended, ...]
"""What is done to one block's arguments beside its tokens."""


@dataclass(frozen=True)
class Reading:
    """One way to read a block's arguments; `first` says that the image's tokens come first where all are one sequence.

    `unknown` are leaves that have an entry for each token, of which their values do not say what a register's is.
    """

    extension: Extension
    first: bool
    unknown: tuple[int, ...]


def readings(plain: Sequence[Called], grown: Called, rows: Tensor, at: int, skipped: int) -> Iterator[Reading]:
    """The ways to read a call, the likeliest first: all axes as long as a sequence of tokens follow it, or not.

    `plain` is the call without registers for several inputs, `grown` the same as the first with `rows` before row `at`
    of its tokens, and nothing else changed by us. The leaf `skipped` is the tokens themselves.
    """
    count = len(rows)
    drawn = _drawn(plain)
    found = [
        [] if index == skipped else _candidates(plain[0], grown, index, count, at, drawn)
        for index in range(len(grown.leaves))
    ]
    carried = [_carries(plain[0], grown, index, rows, at) for index in range(len(grown.leaves))]
    groups: dict[Any, list[int]] = {}
    for index, axes in enumerate(found):
        if axes:
            groups.setdefault(_kind(plain[0].leaves[index]), []).append(index)
    ends = (False, True) if any(len(sites) > 1 for axes in found for sites in axes) else (False,)
    choices = [_choices(found[members[0]]) for members in groups.values()]
    for i, (chosen, first) in enumerate((c, f) for c in product(*choices) for f in ends):
        if i >= MOST_READINGS:
            return
        named = [(groups[key], axes) for key, axes in zip(groups, chosen, strict=True)]
        yield _reading(plain, named, found, carried, first)


def _carries(plain: Called, grown: Called, index: int, rows: Tensor, at: int) -> bool:
    """Whether a leaf is tokens of an earlier block, with registers among them already."""
    before, after = plain.leaves[index], grown.leaves[index]
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.shape != plain.tokens.shape:
        return False
    return before.dtype == rows.dtype and near(after, with_rows(before, at, rows))


def _kind(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else ("number", leaf)


def _candidates(
    plain: Called, grown: Called, index: int, count: int, at: int, drawn: Sequence[int]
) -> list[tuple[Axis, ...]]:
    """For each axis of a leaf that may follow the tokens, its readings: behind the other stream's tokens, or first."""
    before, after = plain.leaves[index], grown.leaves[index]
    if type(before) is int and type(after) is int:
        sites = _sites(plain, before, at)
        return [tuple(Axis(0, 0, False, (0,), (0,)) for _ in sites[:1])] if sites and after == before else []
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.ndim != after.ndim:
        return []
    found = []
    for axis, (size, made) in enumerate(zip(before.shape, after.shape, strict=True)):
        batch = axis == 0 and before.ndim > 1 and size == plain.tokens.shape[0]
        if not batch and made in (size, size + count):
            sites = _sites(plain, size, at)
            if sites:
                found.append(tuple(_axis(axis, start, made > size, own, drawn) for start, own in sites))
    return found


def _axis(axis: int, at: int, grown: bool, own: Sequence[int], drawn: Sequence[int]) -> Axis:
    """`drawn` says which of the image's tokens, counted among themselves, are no padding."""
    return Axis(axis, at, grown, tuple(own), tuple(own[i] for i in drawn))


def _sites(plain: Called, size: int, at: int) -> list[tuple[int, list[int]]]:
    """Where registers' entries come in an axis of `size`, and which entries are the image's."""
    own = plain.own
    if size == plain.length:
        return [(at, own)]
    if size == len(own) and own == list(range(at, at + size)):
        return [(0, list(range(size)))]
    if plain.others and size == plain.length + plain.others:
        return [(offset + at, [offset + row for row in own]) for offset in (plain.others, 0)]
    return []


def _drawn(plain: Sequence[Called]) -> list[int]:
    """Which of the image's tokens change with what is drawn; all, where none do. Padding is the same each time."""
    one, other = (call.tokens[:, call.own] for call in plain[:2])
    changed: list[int] = (one != other).any(-1).any(0).nonzero().flatten().tolist()
    return changed or list(range(one.shape[1]))


def _choices(axes: list[tuple[Axis, ...]]) -> list[tuple[int, ...]]:
    """Which of a leaf's axes follow the tokens: all, one of them, or none; what the model lengthens itself does."""
    every = tuple(range(len(axes)))
    made = {i for i in every if axes[i][0].grown}
    some = [every, *((i,) for i in every if len(every) > 1), ()]
    return [each for each in some if made <= set(each)]


def _reading(
    plain: Sequence[Called],
    chosen: Sequence[tuple[list[int], tuple[int, ...]]],
    found: Sequence[list[tuple[Axis, ...]]],
    carried: Sequence[bool],
    first: bool,
) -> Reading:
    made: list[Extended] = []
    unknown: list[int] = []
    for members, which in chosen:
        for index in members if which else ():
            axes = tuple(found[index][i][-1 if first else 0] for i in which)
            if not isinstance(plain[0].leaves[index], Tensor):
                made.append(Extended(index, ()))
                continue
            if carried[index]:
                made.append(Extended(index, axes, Fill("own")))
                continue
            own = [each.drawn for each in axes]
            fill = fill_of(index, [each.leaves for each in plain], [each.axis for each in axes], own)
            unknown += [index] if fill is None else []
            made.append(Extended(index, axes, fill or NONE))
    return Reading(tuple(made), first, tuple(unknown))


def extended_leaves(
    leaves: Sequence[Any], extension: Extension, count: int, kept: Callable[[Any, Any], Any]
) -> list[Any]:
    """`leaves` with entries for `count` registers; `kept(leaf, make)` may remember what was made of the same leaf."""
    made = list(leaves)
    for each in extension:
        made[each.leaf] = kept((each, leaves[each.leaf]), partial(each.of, leaves[each.leaf], count))
    return made
