"""Runs a model with registers once, and holds every block against what registers are: tokens like the image's.

A block takes its tokens as a set, of which each has its own entries in tables and masks: with tokens of the image and
registers in another order, and their entries with them, all outputs must be the same in that order. What does not
hold this (a convolution, a window, a grid that the tokens are folded into) has no room for registers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dsr_export.families.diffusers.general.blocks import Block
from dsr_export.families.diffusers.general.inserting.calls import Called, with_rows, without_rows
from dsr_export.families.diffusers.general.inserting.comparisons import equal, held, in_order
from dsr_export.families.diffusers.general.inserting.extension import (
    Axis,
    Extended,
    Extension,
    Reading,
    extended_leaves,
    readings,
)
from dsr_export.families.diffusers.general.inserting.fills import Fill
from dsr_export.families.diffusers.general.inserting.uses import leaves_registers_alone

FAILS = (RuntimeError, ValueError, IndexError, AssertionError, TypeError, KeyError, AttributeError, ZeroDivisionError)


class Unfit(Exception):
    """Registers do not fit a block: the message says why."""


@dataclass(frozen=True)
class Entry:
    """A call of a block without registers, for several inputs, and one with them; `at` is the first one's row."""

    plain: tuple[Called, ...]
    grown: Called
    at: int


@dataclass
class Check:
    """Reads the arguments of blocks as they are called. `rows` [R, D] come before block `first`, and go behind `last`.

    `found` is what was learnt: the extension of each block's arguments. `left` are the calls that are to come.
    """

    rows: Tensor
    first: str
    last: str
    left: list[Entry]
    found: dict[str, Extension] = field(default_factory=dict)
    known: dict[Any, Extension] = field(default_factory=dict)

    def called(self, block: Block, own: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the block `own` makes of its arguments, with registers among its tokens; raises `Unfit`."""
        entry, called, count = self.left.pop(0), Called.of(block, args, kwargs), len(self.rows)
        tokens = with_rows(called.tokens, entry.at, self.rows) if block.name == self.first else called.tokens
        call = _Call(own, entry, called, tokens, self.rows)
        if block.name in self.found:
            output = call.checked(self.found[block.name])
        else:
            self.found[block.name], output = self._read(block, call)
        if block.name != self.last:
            return output
        kept = without_rows(block.tokens("image", output), entry.at, count)
        return block.with_tokens("image", output, kept)

    def _read(self, block: Block, call: _Call) -> tuple[Extension, Any]:
        """A block like one before is read like it, if that holds; else every reading is tried."""
        kind = (type(block.module), tuple(getattr(leaf, "shape", None) for leaf in call.called.leaves), call.entry.at)
        if kind in self.known:
            try:
                return self.known[kind], call.checked(self.known[kind])
            except Unfit:
                pass  # it is read for itself below, and what does not hold there is told
        self.known[kind], output = call.read()
        return self.known[kind], output


@dataclass
class _Call:
    """One call of the block `own` with registers among `tokens`; other arguments as the model makes them."""

    own: Any
    entry: Entry
    called: Called
    tokens: Tensor
    rows: Tensor

    @property
    def count(self) -> int:
        return len(self.rows)

    def read(self) -> tuple[Extension, Any]:
        """The first reading that holds, and what the block returned."""
        why: Unfit | None = None
        kept: tuple[Reading, Any] | None = None
        skipped = self.called.sequence
        self._check_earlier(skipped)
        for reading in readings(self.entry.plain, self.entry.grown, self.rows, self.entry.at, skipped):
            if kept is not None and (reading.first == kept[0].first or self._same(reading, kept[0])):
                continue
            try:
                output = self._of(reading)
            except Unfit as unfit:
                why = why or unfit
                continue
            if kept is not None:
                raise Unfit("which of its tokens come first, the image's or the other ones, cannot be told")
            kept = reading, output
        if kept is None:
            raise why or Unfit("nothing is known of its arguments")
        return kept[0].extension, kept[1]

    def _of(self, reading: Reading) -> Any:
        for index in reading.unknown:
            plain = self.entry.plain[0]
            if not leaves_registers_alone(plain, index, self.own):
                shape = list(plain.leaves[index].shape)
                values = f"'{plain.names[index]}' {shape}"
                raise Unfit(f"it is given {values} with values for each token, and nothing says what a register's are")
        output = self.checked(reading.extension)
        for each in reading.extension:
            if each.fill is not None and each.fill.kind == "seen":
                self._check_hides(each, reading.extension)
        return output

    def _check_hides(self, mask: Extended, extension: Extension) -> None:
        """What is read as a mask must hide: registers that it hides change nothing for the others."""
        assert mask.fill is not None
        fill = dataclasses.replace(mask.fill, value=mask.fill.hidden)
        hiding = tuple(dataclasses.replace(each, fill=fill) if each is mask else each for each in extension)
        leaves, at = _extended(self.called.leaves, hiding, self.count), self.entry.at
        other = self.tokens.clone()
        other[:, at : at + self.count] = other[:, at : at + self.count].flip(-1) + 1
        block = self.called.block
        made, moved = (block.tokens("image", self._run(leaves, tokens)) for tokens in (self.tokens, other))
        if not held(*(without_rows(each, at, self.count) for each in (moved, made, self.tokens))):
            name = self.entry.plain[0].names[mask.leaf]
            raise Unfit(f"'{name}' tells tokens of the image apart, and nothing says what a register is")

    def _same(self, one: Reading, other: Reading) -> bool:
        """Whether two readings come to the same arguments for all inputs that were tried."""
        for call in self.entry.plain:
            pairs = zip(
                *(_extended(call.leaves, _plain(each.extension), self.count) for each in (one, other)), strict=True
            )
            if not all(equal(a, b) for a, b in pairs):
                return False
        return True

    def checked(self, extension: Extension) -> Any:
        """What the block returns; raises `Unfit` where it fails, or does not take its tokens as a set."""
        self._check_grown(extension)
        leaves = _extended(self.called.leaves, extension, self.count)
        members = self._members()
        order = members[torch.randperm(len(members), generator=torch.Generator().manual_seed(0))]
        output = self._run(leaves, self.tokens)
        other = self._run(self._reordered(leaves, extension, members, order), in_order(self.tokens, 1, members, order))
        block = self.called.block
        for stream in block.places:
            made, moved = block.tokens(stream, output), block.tokens(stream, other)
            whole = made.shape == self.tokens.shape
            if made.shape != moved.shape or (stream == "image" and not whole):
                raise Unfit("it hands on another number of tokens than it is given")
            expected, before = made, torch.zeros_like(made)
            if whole:
                expected, before = (in_order(each, 1, members, order) for each in (made, self.tokens))
            if not held(moved, expected, before):
                raise Unfit("what it makes of a token depends on where the token stands in the sequence or picture")
        return output

    def _members(self) -> Tensor:
        """The rows of the image and of registers, in the sequence with registers."""
        own = [row + self.count if row >= self.entry.at else row for row in self.entry.plain[0].own]
        return torch.tensor([*range(self.entry.at, self.entry.at + self.count), *own])

    def _reordered(self, leaves: list[Any], extension: Extension, members: Tensor, order: Tensor) -> list[Any]:
        moved, places = list(leaves), {int(row): i for i, row in enumerate(members)}
        for each in extension:
            for axis in each.axes:
                own = [row + self.count if row >= axis.at else row for row in axis.own]
                entries = torch.tensor([*range(axis.at, axis.at + self.count), *own])
                shuffled = entries[[places[int(row)] for row in order]]
                moved[each.leaf] = in_order(moved[each.leaf], axis.axis, entries, shuffled)
        return moved

    def _run(self, leaves: list[Any], tokens: Tensor) -> Any:
        args, kwargs = self.called.with_tokens(leaves, tokens)
        try:
            return self.own(*args, **kwargs)
        except FAILS as error:
            said = str(error).strip().split("\n")[0][:160] or type(error).__name__
            raise Unfit(f"it cannot be called with more tokens than the picture has ({said})") from error

    def _check_earlier(self, skipped: int) -> None:
        """Tokens of an earlier block must have registers, too."""
        plain, grown = self.entry.plain[0], self.entry.grown
        for i, (before, after) in enumerate(zip(plain.leaves, grown.leaves, strict=True)):
            if i != skipped and before is plain.tokens and after.shape == before.shape:
                raise Unfit(
                    f"it is also given tokens from before registers come in, as '{plain.names[i]}': "
                    "they must come in before the first block"
                )

    def _check_grown(self, extension: Extension) -> None:
        """What the model lengthens by itself must keep the entries of all other tokens."""
        for each in extension:
            if any(axis.grown for axis in each.axes) and each.fill != Fill("own"):
                plain = Extended(each.leaf, tuple(_alone(axis) for axis in each.axes), each.fill)
                before, after = self.entry.plain[0].leaves[each.leaf], self.entry.grown.leaves[each.leaf]
                if not equal(plain.of(before, self.count), each.of(after, self.count)):
                    raise Unfit("the model counts its tokens, and registers would move the places of the image's")


def _alone(axis: Axis) -> Axis:
    return dataclasses.replace(axis, grown=False)


def _plain(extension: Extension) -> Extension:
    return tuple(Extended(each.leaf, tuple(map(_alone, each.axes)), each.fill) for each in extension)


def _extended(leaves: Sequence[Any], extension: Extension, count: int) -> list[Any]:
    return extended_leaves(leaves, extension, count, lambda _, make: make())
