"""Which rows of a joined sequence are the image's, and which the prompt's.

Told by what they depend on before anything is mixed: every block is made to hand on what it is given, and the model
runs three times, the second time with another latent, the third with another prompt. Rows that change with the latent
are the image's, those that change with the prompt alone are the prompt's. What changes with neither (padding, a
learned token) belongs to the rows that it stands behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from dsr_export.families.diffusers.general.blocks import (
    Block,
    Run,
    Seen,
    check_batch_first,
    named_arguments,
    seen_blocks,
    sequences,
)
from dsr_export.spec import Stream

IMAGE, TEXT = 1, 2


def find_blocks(transformer: nn.Module, run: Run, more: Callable[[], Any] | None = None) -> tuple[Block, ...]:
    """The blocks in the order in which `run` calls them, with what they hand on of each stream.

    `more` calls the transformer with another number of rows. Raises ExportError for a block whose image tokens cannot
    be told from another stream's, since both are as many, and for one whose batch is not the first axis.
    """
    found = seen_blocks(transformer, run)
    if more is not None:
        check_batch_first(found, more)
    return blocks_seen(found, run)


def blocks_seen(found: Sequence[Seen], run: Run) -> tuple[Block, ...]:
    """The blocks of `found`, with the rows of each stream where both are one sequence."""
    if all("text" in seen.block.places for seen in found):
        return tuple(seen.block for seen in found)
    with torch.no_grad():
        runs = [_entries(found, run, None), _entries(found, run, "image"), _entries(found, run, "text")]
    return tuple(_with_rows(seen.block, [each.get(seen.block.name) for each in runs]) for seen in found)


def _entries(found: Sequence[Seen], run: Run, other: Stream | None) -> dict[str, Tensor]:
    """By block, its sequence in one run without blocks, each row by two sums [1, n, 2]: all of it would fill memory."""
    entries: dict[str, Tensor] = {}

    def note(seen: Seen, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        image = sequences(named_arguments(seen.block.module, args, kwargs))["image"].double()
        entries.setdefault(seen.block.name, torch.stack([image.sum(-1), image.square().sum(-1)], -1))

    with passing_through(found, note):
        run(other)
    return entries


Note = Callable[[Seen, tuple[Any, ...], dict[str, Any]], None]
"""Is told of a block's call."""


@contextmanager
def passing_through(found: Sequence[Seen], note: Note) -> Iterator[None]:
    """Within it every block hands on the tokens that it is given."""
    with ExitStack() as patches:
        for seen in found:
            patches.enter_context(mock.patch.object(seen.block.module, "forward", _passing(seen, note)))
        yield


def _passing(seen: Seen, note: Note) -> Callable[..., Any]:
    block = seen.block

    def passed(*args: Any, **kwargs: Any) -> Any:
        note(seen, args, kwargs)
        tokens = sequences(named_arguments(block.module, args, kwargs))
        output: Any = seen.output
        for stream in block.places:
            output = block.with_tokens(stream, output, tokens[stream])
        return output

    return passed


def joined_rows(blocks: Sequence[Block]) -> tuple[int, int] | None:
    """The first row and the number of the prompt's tokens in the sequence that `blocks` join both streams in.

    None where none does, the prompt's tokens lie apart, or other rows (registers) are among them.
    """
    for block in blocks:
        image, text = (block.others.get(stream, ()) for stream in ("text", "image"))
        if image and text and sorted((*image, *text)) == list(range(len(image) + len(text))):
            first = text[0]
            return (first, len(text)) if text == tuple(range(first, first + len(text))) else None
    return None


def _with_rows(block: Block, entries: Sequence[Tensor | None]) -> Block:
    before, other_latent, other_prompt = entries
    if "text" in block.places or before is None or other_latent is None or other_prompt is None:
        return block
    if not before.shape == other_latent.shape == other_prompt.shape:
        return block
    latent, prompt = ((each != before).any(-1).any(0) for each in (other_latent, other_prompt))
    owners = _owners(torch.where(latent, IMAGE, torch.where(prompt, TEXT, 0)).tolist())
    image, text = (tuple(i for i, each in enumerate(owners) if each == owner) for owner in (IMAGE, TEXT))
    width, place = block.widths["image"], block.places["image"]
    if not text:
        return block
    if not image:
        return replace(block, places={"text": place}, widths={"text": width, "image": width})
    return replace(
        block,
        places={"image": place, "text": place},
        widths={"image": width, "text": width},
        others={"image": text, "text": image},
    )


def _owners(known: Sequence[int]) -> list[int]:
    """Rows without an owner (0) get that of the row before them; the first ones, that of the first one behind them."""
    owner = next((each for each in known if each), IMAGE)
    filled = []
    for each in known:
        owner = each or owner
        filled.append(owner)
    return filled
