"""A diffusers transformer with what is done to its tokens: inserted registers and run-time replacement, by hooks.

Blocks stay where they are, so that the transformer's own checkpoints load. Shapes: B batch, N image tokens, T text
tokens, R registers, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.example_rows.drawn import Draw
from dsr_export.registers import DiffusionRegisters, RecursiveReplacement
from graphs.artifacts import TensorSpec


@dataclass(frozen=True, kw_only=True)
class LatentSize:
    """What is static in the graph: the latent's height and width (before patches), and the number of text tokens."""

    height: int
    width: int
    text_tokens: int


@dataclass(frozen=True, kw_only=True)
class ImageStream:
    """A model's residual stream, under the names of `RaeDitConfig`; a prompt's as well."""

    depth: int
    hidden_size: int
    register_len: int
    register_start: int

    @property
    def register_conditioning(self) -> bool:
        return self.register_len > 0


class DiffusersDenoiser(nn.Module):
    """Base of the adapters: `forward` takes the graph's inputs by position and returns `out`.

    `registers` [R, D], prepended to the image tokens before block `start` and dropped behind the last block, may be
    None. Text tokens have sites of their own, where the class keeps them: a stream is counted and replaced by itself.
    """

    TEXT_TOKENS: ClassVar[int] = 0
    KEEPS_TEXT: ClassVar[bool] = False
    """Whether blocks return the prompt's tokens beside the image's."""
    EMBEDDERS: ClassVar[tuple[str, ...]] = ()
    """Modules kept in FP32: sinusoids of large angles, and the layer whose error is the output's."""
    registers: Tensor | None

    def __init__(
        self, transformer: nn.Module, size: LatentSize, registers: Tensor | None = None, start: int = 0
    ) -> None:
        super().__init__()
        self.transformer: Any = transformer
        self.size, self.register_start = size, start
        self.replacements = nn.ModuleDict()
        self.register_buffer("registers", registers)
        self.prepare()
        if registers is not None and registers.shape[-1] != self.dim:
            raise ExportError(f"registers have {registers.shape[-1]} channels, and the model has {self.dim}")
        for layer, block in enumerate(self.blocks_of(transformer)):
            block.register_forward_pre_hook(_Before(self, layer), with_kwargs=True)
            block.register_forward_hook(_After(self, layer))

    @classmethod
    def fitting(cls, head: int, inner: int) -> dict[str, Any]:
        """Constructor arguments whose defaults fit the released size only, for heads of `head` of `inner` channels."""
        return {}

    def prepare(self) -> None:
        """Fixes position tables to `size`; raises ExportError where the model cannot take it."""

    @classmethod
    def blocks_of(cls, transformer: Any) -> list[nn.Module]:
        """In the order of their layer numbers."""
        return list(transformer.transformer_blocks)

    @property
    def config(self) -> ImageStream:
        """What replacement groups are checked against."""
        return ImageStream(
            depth=len(self.blocks_of(self.transformer)),
            hidden_size=self.dim,
            register_len=self.register_count,
            register_start=self.register_start,
        )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the image's tokens."""
        patch = int(self.transformer.config.patch_size)
        return 1, self.size.height // patch, self.size.width // patch

    @property
    def text_rows(self) -> tuple[int, int] | None:
        """The first row and the number of the prompt's tokens in sequences that join both streams; None without any."""
        return None

    @property
    def dim(self) -> int:
        return int(self.transformer.inner_dim)

    @property
    def num_classes(self) -> int:
        return 0

    @property
    def register_count(self) -> int:
        return 0 if self.registers is None else len(self.registers)

    @property
    def register_rows(self) -> Mapping[int, int]:
        """Which row is the first register's, in sequences of some length; the first, where nothing is said."""
        return {}

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Specs of `forward`'s arguments."""
        raise NotImplementedError

    def output_shape(self) -> tuple[int | str, ...]:
        raise NotImplementedError

    def draws(self) -> Mapping[str, Draw]:
        """How examples of the inputs are drawn that are not plain normal numbers."""
        return {}

    def constants(self) -> dict[str, Any]:
        """Arguments of the transformer that are no inputs of the graph, by name."""
        return {}

    def outer_modules(self) -> tuple[str, ...]:
        return tuple(f"transformer.{name}" for name in self.EMBEDDERS)

    def has_registers(self, layer: int) -> bool:
        """Whether the register rows are there in block `layer`."""
        return self.registers is not None and layer >= self.register_start

    def replace_at(self, layers: Sequence[int], replacement: RecursiveReplacement) -> None:
        """Applies `replacement` to the image tokens that leave each block in `layers`."""
        for layer in layers:
            self.replacements[str(layer)] = replacement

    @property
    def text(self) -> TextTokens | None:
        """The prompt's stream; None for a class without one."""
        return TextTokens(self) if self.KEEPS_TEXT else None

    def enter(self, layer: int, arguments: dict[str, Any]) -> None:
        """Changes a block's keyword arguments once the registers are there."""

    def tokens_in(self, layer: int, tokens: Tensor) -> Tensor:
        if self.registers is None or layer != self.register_start:
            return tokens
        return DiffusionRegisters.prepend(tokens, self.registers)

    def tokens_out(self, layer: int, tokens: Tensor) -> Tensor:
        if str(layer) in self.replacements:
            replacement = self.replacements[str(layer)]
            tokens = replacement(tokens, self.registers if replacement.registers is None else None)
        if self.registers is not None and layer == self.config.depth - 1:
            tokens = DiffusionRegisters.drop(tokens, self.register_count)
        return tokens

    def text_out(self, layer: int, text: Tensor | None) -> Tensor | None:
        name = text_site(layer)
        if text is None or name not in self.replacements:
            return text
        made: Tensor = self.replacements[name](text, None)
        return made


def text_site(layer: int) -> str:
    """What the site of a prompt's tokens behind block `layer` is called; an image's has the number alone."""
    return f"{layer}_text"


@dataclass(frozen=True, eq=False)
class TextTokens:
    """The prompt's tokens behind the blocks, to be replaced by themselves: they are as wide as the image's."""

    denoiser: DiffusersDenoiser

    @property
    def config(self) -> ImageStream:
        """What replacement groups are checked against: registers are the image's."""
        depth = self.denoiser.config.depth
        return ImageStream(depth=depth, hidden_size=self.denoiser.dim, register_len=0, register_start=depth)

    def replace_at(self, layers: Sequence[int], replacement: RecursiveReplacement) -> None:
        for layer in layers:
            self.denoiser.replacements[text_site(layer)] = replacement


@dataclass(frozen=True, eq=False)
class _Before:
    """Forward pre-hook of one block, whose image tokens are its first argument, by name or not."""

    denoiser: DiffusersDenoiser
    layer: int

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        changed = dict(kwargs)
        if self.denoiser.has_registers(self.layer):
            self.denoiser.enter(self.layer, changed)
        if args:
            return (self.denoiser.tokens_in(self.layer, args[0]), *args[1:]), changed
        changed["hidden_states"] = self.denoiser.tokens_in(self.layer, changed["hidden_states"])
        return args, changed


@dataclass(frozen=True, eq=False)
class _After:
    """Forward hook of one block, which returns its image tokens, or (text tokens, image tokens)."""

    denoiser: DiffusersDenoiser
    layer: int

    def __call__(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return self.denoiser.tokens_out(self.layer, output)
        text, tokens = output
        return self.denoiser.text_out(self.layer, text), self.denoiser.tokens_out(self.layer, tokens)


def float_input(name: str, *shape: int) -> TensorSpec:
    """A float32 graph input [batch, *shape]."""
    return TensorSpec(name=name, dtype="float32", shape=("batch", *shape))


def uniform(low: float, high: float) -> Draw:
    """Draws evenly from [low, high)."""
    return lambda rng, shape: np.asarray(rng.uniform(low, high, shape))
