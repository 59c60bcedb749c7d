"""Where streams of a pipeline's transformer are watched, and replacement is tried: behind its blocks, by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, linalg, nn

from dsr_export.families.diffusers.general.blocks import Block
from dsr_export.registers import RecursiveReplacement
from dsr_export.spec import ReplaceSpec, Stream

Array = npt.NDArray[Any]
Site = tuple[int, Stream]
Watch = Callable[[Site, Array], None]
"""Is given the norms [B, n] of the stream's own rows."""


def sites_of(blocks: Sequence[Block]) -> list[Site]:
    """Image first. Behind the last block nothing reads the prompt's tokens."""
    last = len(blocks) - 1
    images: list[Site] = [(layer, "image") for layer, block in enumerate(blocks) if "image" in block.places]
    texts: list[Site] = [(i, "text") for i, block in enumerate(blocks) if "text" in block.places and i != last]
    return images + texts


@contextmanager
def watching(blocks: Sequence[Block], watch: Watch) -> Iterator[None]:
    """While active, tells of the tokens of every site. Nothing is changed."""
    with ExitStack() as hooks:
        for layer, stream in sites_of(blocks):
            hook = _norms_of(blocks[layer], (layer, stream), watch)
            hooks.enter_context(blocks[layer].module.register_forward_hook(hook))
        yield


@contextmanager
def without_sites(module: nn.Module) -> Iterator[None]:
    """The model without replacement of its own."""
    own = [part for part in module.modules() if isinstance(part, RecursiveReplacement)]
    try:
        for site in own:
            site.enabled = False
        yield
    finally:
        for site in own:
            del site.enabled  # the class's own value, True, is back


@contextmanager
def replacing(
    blocks: Sequence[Block],
    groups: Sequence[ReplaceSpec],
    registers: Tensor | None,
    replaced: Callable[[Site, int], None],
) -> Iterator[None]:
    """While active, replaces as `groups` say (clip, or the nearest of `registers`), and tells how many tokens."""
    with ExitStack() as hooks:
        for group in groups:
            for layer in group.layers:
                hook = _replaced(blocks[layer], layer, group, registers, replaced)
                hooks.enter_context(blocks[layer].module.register_forward_hook(hook))
        yield


def _norms_of(block: Block, site: Site, watch: Watch) -> Any:
    stream = site[1]
    others = list(block.others.get(stream, ()))

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        norms = linalg.vector_norm(block.tokens(stream, output).float(), dim=-1).numpy()
        watch(site, np.delete(norms, others, axis=1))

    return hook


def _replaced(
    block: Block, layer: int, group: ReplaceSpec, registers: Tensor | None, replaced: Callable[[Site, int], None]
) -> Any:
    replacement = RecursiveReplacement(
        rule=group.rule,
        threshold=group.threshold,
        rounds=group.rounds,
        choice=group.choice,
        exclude=block.others.get(group.stream, ()),
        registers=registers if group.choice == "nearest" else None,
    )

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        tokens = block.tokens(group.stream, output)
        made = replacement(tokens)
        replaced((layer, group.stream), int((made != tokens).any(dim=-1).sum()))
        return block.with_tokens(group.stream, output, made)

    return hook
