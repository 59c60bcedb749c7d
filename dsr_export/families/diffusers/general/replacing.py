"""Run-time replacement behind the blocks of a transformer of any class: the image tokens that leave them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.general.adapter import GeneralDenoiser
from dsr_export.families.diffusers.general.blocks import Block
from dsr_export.families.diffusers.wrapper import ImageStream
from dsr_export.families.network_parts.replacements import apply_replacements
from dsr_export.registers import RecursiveReplacement
from dsr_export.spec import ReplaceSpec


def replace_in(denoiser: GeneralDenoiser, blocks: Sequence[Block], groups: Sequence[ReplaceSpec]) -> None:
    """Replaces as `groups` say, whose layers count `blocks`; registers come from files.

    Raises ExportError for groups that do not fit, and for a model in which no block was found.
    """
    if not blocks:
        name = type(denoiser.transformer).__name__
        hint = "insert dsr_export.registers in code of your own, and give it as module:callable"
        raise ExportError(f"{name} has no list of blocks that hand tokens on, so none can be followed", hint=hint)
    stream = ImageStream(depth=len(blocks), hidden_size=blocks[0].width, register_len=0, register_start=len(blocks))
    apply_replacements(_Sites(denoiser, blocks), groups, stream=stream)


@dataclass(frozen=True)
class _Sites:
    denoiser: GeneralDenoiser
    blocks: Sequence[Block]

    @property
    def config(self) -> Any:
        return self.denoiser.transformer.config

    def replace_at(self, layers: Sequence[int], replacement: RecursiveReplacement) -> None:
        for layer in layers:
            block = self.blocks[layer]
            self.denoiser.replacements[str(layer)] = replacement
            block.module.register_forward_hook(_After(replacement, block.place))


@dataclass(frozen=True, eq=False)
class _After:
    """Forward hook of one block."""

    replacement: RecursiveReplacement
    place: int | None

    def __call__(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if self.place is None:
            return self._replaced(output)
        return (*output[: self.place], self._replaced(output[self.place]), *output[self.place + 1 :])

    def _replaced(self, tokens: Tensor) -> Tensor:
        made: Tensor = self.replacement(tokens, None)
        return made
