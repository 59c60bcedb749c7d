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


def replace_in(denoiser: GeneralDenoiser, blocks: Sequence[Block], groups: Sequence[ReplaceSpec]) -> None:
    """Replaces as `groups` say, whose layers count `blocks`; registers come from files.

    Raises ExportError for groups that do not fit, and for a model in which no block was found.
    """
    if not blocks:
        name = type(denoiser.transformer).__name__
        hint = "insert dsr_export.registers in code of your own, and give it as module:callable"
        raise ExportError(f"{name} has no list of blocks that hand tokens on, so none can be followed", hint=hint)
    text = _Sites(denoiser, blocks, "text") if any("text" in block.places for block in blocks) else None
    apply_replacements(_Sites(denoiser, blocks, "image"), groups, text=text)


@dataclass(frozen=True)
class _Sites:
    denoiser: GeneralDenoiser
    blocks: Sequence[Block]
    stream: Stream

    @property
    def config(self) -> ImageStream:
        depth = len(self.blocks)
        width = next((block.widths[self.stream] for block in self.blocks if self.stream in block.places), 0)
        return ImageStream(depth=depth, hidden_size=width, register_len=0, register_start=depth)

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
            block.module.register_forward_hook(_After(replacement, block, self.stream))


@dataclass(frozen=True, eq=False)
class _After:
    """Forward hook of one block."""

    replacement: RecursiveReplacement
    block: Block
    stream: Stream

    def __call__(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        tokens: Tensor = self.replacement(self.block.tokens(self.stream, output), None)
        return self.block.with_tokens(self.stream, output, tokens)
