"""Where registers go in a transformer of any class, and what its blocks are given for them: found by running it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.general.blocks import Block, Seen
from dsr_export.families.diffusers.general.inserting.calls import (
    ROUNDING,
    Called,
    Walk,
    near,
    walk,
    with_rows,
    without_rows,
)
from dsr_export.families.diffusers.general.inserting.checking import FAILS, Check, Entry, Unfit
from dsr_export.families.diffusers.general.inserting.extension import Extension

SEEDS = (0, 1, 2)
Run = Callable[[int], Any]
"""Calls the transformer once, with inputs drawn from that seed."""
_SET = (
    "registers need blocks that take their tokens as a set; replacement with registers from a file is for every class"
)


@dataclass(frozen=True)
class Plan:
    """`count` registers are put in before row `at[block]` of the image's tokens, from block `first` to `last`.

    `at` and `extensions` are by block name; `rows` says where they start in sequences with them, by the length.
    """

    count: int
    first: str
    last: str
    at: Mapping[str, int]
    rows: Mapping[int, int]
    extensions: Mapping[str, Extension]

    def block(self, block: Block, *, behind: bool = False) -> Block:
        """`block` with the rows of registers among those that are no stream's.

        Behind the last one they are gone, for who looks (`behind`) at what the model goes on with.
        """
        if block.name not in self.at or (behind and block.name == self.last):
            return block
        at, count = self.at[block.name], self.count
        added = range(at, at + count)
        shifted = {s: [row + count if row >= at else row for row in rows] for s, rows in block.others.items()}
        others = shifted or {"image": []}  # of two sequences, registers are in the image's
        return dataclasses.replace(block, others={s: tuple(sorted((*added, *rows))) for s, rows in others.items()})


def plan_of(
    name: str, found: Sequence[Seen], blocks: Sequence[Block], rows: Tensor, start: int, run: Run, batch: int
) -> Plan:
    """Where `rows` [R, D] go from block `start` on, checked block by block in a run of the model.

    `batch` is how many rows of a batch a block is given in such a run. Raises ExportError, with the reason, where the
    model has no room for registers.
    """
    named = {block.name: block for block in blocks}
    inside = [block.name for block in blocks[start:] if "image" in block.places]
    if not inside or inside[0] != blocks[start].name:
        fits = [i for i, block in enumerate(blocks) if "image" in block.places]
        raise ExportError(f"block {start} ('{blocks[start].name}') takes no image tokens", hint=f"these do: {fits}")
    where = f"{name} takes no registers from block {start} ('{inside[0]}') on"
    _check_whole(where, found, inside, batch)
    plain = [walk(found, named, partial(run, seed)) for seed in SEEDS]
    try:
        entries = _entries(found, named, plain, rows, inside, run)
    except Unfit as unfit:
        raise ExportError(f"{where}: {unfit}", hint=_starts(found, named, plain, rows, blocks, run)) from unfit
    check = Check(rows, inside[0], inside[-1], [entry for _, entry in entries])
    with _checked(check, [named[each] for each in inside], where):
        run(SEEDS[0])
    at = {block: entry.at for block, entry in entries}
    places = [place for block, entry in entries for place in _places(entry, check.found[block], len(rows))]
    return Plan(len(rows), inside[0], inside[-1], at, dict(places), check.found)


def _places(entry: Entry, extension: Extension, count: int) -> list[tuple[int, int]]:
    """Length and first register's row: of the sequence that a block is given, and of those it makes of both streams."""
    found = [(entry.grown.length, entry.at)]
    for each in extension:
        leaf = entry.plain[0].leaves[each.leaf]
        found += [
            (leaf.shape[axis.axis] + count, axis.at) for axis in each.axes if len(axis.own) != leaf.shape[axis.axis]
        ]
    return found


def _check_whole(where: str, found: Sequence[Seen], inside: Sequence[str], batch: int) -> None:
    """Every block must be given one sequence for each row of the batch: not one for each frame, or place."""
    folded = [seen.block.name for seen in found if seen.block.name in inside and seen.shape[0] != batch]
    if folded:
        raise ExportError(f"{where}: block '{folded[0]}' is given frames, or places in them, one by one", hint=_SET)


def _entries(
    found: Sequence[Seen],
    named: Mapping[str, Block],
    plain: Sequence[Walk],
    rows: Tensor,
    inside: Sequence[str],
    run: Run,
) -> list[tuple[str, Entry]]:
    """The calls of the blocks `inside`, without registers and with them; `Unfit` where they do not come through."""
    first, start = named[inside[0]], _first_own(plain[0], inside[0])

    def put_in(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        called = Called.of(first, args, kwargs)
        return called.with_tokens(called.leaves, with_rows(called.tokens, start, rows))

    def take_out(module: Any, args: Any, output: Any) -> Any:
        block = named[inside[-1]]
        tokens = block.tokens("image", output)
        before = next(call for call in plain[0].calls if call.block.name == block.name)
        at = _place(before.tokens, tokens, rows)
        return block.with_tokens("image", output, without_rows(tokens, at, len(rows)))

    hooks = [first.module.register_forward_pre_hook(put_in, with_kwargs=True)]
    hooks.append(named[inside[-1]].module.register_forward_hook(take_out))
    try:
        grown = walk(found, named, lambda: run(SEEDS[0]))
    except FAILS as error:
        said = str(error).strip().split("\n")[0][:160] or type(error).__name__
        raise Unfit(f"between its blocks the model counts on as many tokens as the picture has ({said})") from error
    finally:
        for hook in hooks:
            hook.remove()
    return _compared(plain, grown, rows, inside, start)


def _compared(
    plain: Sequence[Walk], grown: Walk, rows: Tensor, inside: Sequence[str], start: int
) -> list[tuple[str, Entry]]:
    lost = Unfit("between its blocks the model does not keep them: it cuts, folds or joins its tokens anew")
    if [call.block.name for call in grown.calls] != [call.block.name for call in plain[0].calls]:
        raise lost
    entries = []
    for i, call in enumerate(grown.calls):
        calls = tuple(each.calls[i] for each in plain)
        if call.block.name in inside:
            first = call.block.name == inside[0]
            at = start if first else _place(calls[0].tokens, call.tokens, rows)
            if len(call.leaves) != len(calls[0].leaves):
                raise lost
            entries.append((call.block.name, Entry(calls, call, at)))
    for before, after in zip(plain[0].outputs, grown.outputs, strict=True):
        if not near(after, before):
            raise lost
    return entries


def _first_own(plain: Walk, name: str) -> int:
    return next(call for call in plain.calls if call.block.name == name).own[0]


def _place(before: Tensor, after: Tensor, rows: Tensor) -> int:
    """Which row of `after` is the first register's; the others must be those of `before`."""
    if after.shape[1] == before.shape[1] + len(rows):
        apart = (before - after[:, : before.shape[1]]).abs().amax((0, 2))
        differs = (apart > ROUNDING * before.abs().max()).nonzero()
        at = int(differs[0]) if len(differs) else before.shape[1]
        if near(after, with_rows(before, at, rows)):
            return at
    raise Unfit("between its blocks the model does not keep them: it cuts, folds or joins its tokens anew")


def _starts(
    found: Sequence[Seen],
    named: Mapping[str, Block],
    plain: Sequence[Walk],
    rows: Tensor,
    blocks: Sequence[Block],
    run: Run,
) -> str:
    """Which other blocks registers could come before, as far as the way between blocks says."""
    fits = []
    for start, block in enumerate(blocks):
        inside = [each.name for each in blocks[start:] if "image" in each.places]
        if "image" in block.places:
            try:
                _entries(found, named, plain, rows, inside, run)
            except Unfit:
                continue
            fits.append(start)
    return f"these can be the first with registers: {fits}; give start in the file" if fits else _SET


@contextmanager
def _checked(check: Check, blocks: Sequence[Block], where: str) -> Iterator[None]:
    def checked(block: Block, own: Any) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            try:
                return check.called(block, own, args, kwargs)
            except Unfit as unfit:
                raise ExportError(f"{where}: of block '{block.name}', {unfit}", hint=_SET) from unfit

        return called

    with ExitStack() as stack, torch.no_grad():
        for block in blocks:
            stack.enter_context(mock.patch.object(block.module, "forward", checked(block, block.module.forward)))
        yield
