"""Run-time replacement behind the blocks of a transformer of any class: the tokens of one stream that leave them.

Where both streams are one sequence, a site counts and replaces the rows of its own: a threshold means the same before
and behind the join.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.general.adapter import GeneralDenoiser
from dsr_export.families.diffusers.general.blocks import Block
from dsr_export.families.diffusers.wrapper import ImageStream, text_site
from dsr_export.families.network_parts.replacements import apply_replacements
from dsr_export.registers import RecursiveReplacement
from dsr_export.spec import ReplaceSpec, Stream


def replace_in(
    denoiser: GeneralDenoiser, blocks: Sequence[Block], groups: Sequence[ReplaceSpec], start: int | None = None
) -> None:
    """Replaces as `groups` say, whose layers count `blocks`; registers come from files, or are the denoiser's own.

    Its own are there from block `start` on. Raises ExportError for groups that do not fit.
    """
    text = _Sites(denoiser, blocks, "text", None) if any("text" in block.places for block in blocks) else None
    apply_replacements(_Sites(denoiser, blocks, "image", start), groups, text=text)


@dataclass(frozen=True)
class _Sites:
    denoiser: GeneralDenoiser
    blocks: Sequence[Block]
    stream: Stream
    start: int | None

    @property
    def config(self) -> ImageStream:
        depth, own = len(self.blocks), self.denoiser.registers
        width = next((block.widths[self.stream] for block in self.blocks if self.stream in block.places), 0)
        count = 0 if self.start is None or own is None else len(own)
        start = depth if self.start is None else self.start
        return ImageStream(depth=depth, hidden_size=width, register_len=count, register_start=start)

    def replace_at(self, layers: Sequence[int], replacement: RecursiveReplacement) -> None:
        for layer in layers:
            block = self.blocks[layer]
            if self.stream not in block.places:
                fits = [i for i, each in enumerate(self.blocks) if self.stream in each.places]
                raise ExportError(
                    f"block {layer} ('{block.name}') hands on no {self.stream} tokens", hint=f"these do: {fits}"
                )
            replacement.exclude = list(block.others.get(self.stream, ()))
            self.denoiser.replacements[str(layer) if self.stream == "image" else text_site(layer)] = replacement
            block.module.register_forward_hook(_After(self.denoiser, replacement, block, self.stream))


@dataclass(frozen=True, eq=False)
class _After:
    """Forward hook of one block."""

    denoiser: GeneralDenoiser
    replacement: RecursiveReplacement
    block: Block
    stream: Stream

    def __call__(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        own = self.denoiser.registers if self.replacement.registers is None else None
        tokens: Tensor = self.replacement(self.block.tokens(self.stream, output), own)
        return self.block.with_tokens(self.stream, output, tokens)
