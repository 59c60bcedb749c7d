"""What the models with diffusion registers share: blocks that these enter, and replacement behind any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from dsr_export.families.network_parts.replacements import TokenStream
from dsr_export.registers import DiffusionRegisters, RecursiveReplacement


class TrunkConfig(TokenStream, Protocol):
    """What is asked of a trunk's configuration, whatever else its family has."""

    @property
    def in_channels(self) -> int: ...
    @property
    def input_size(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def grid(self) -> int:
        """Patches in a row of the image."""
        ...


class Trunk(nn.Module):
    """`forward(x [N, C, H, W], t [N], y [N] int64) -> out [N, out_channels, H, W]`.

    `replacements` maps a block index to the replacement applied to that block's output tokens; it holds no
    checkpoint keys of its own unless it has a gate.
    """

    FAMILY: ClassVar[str]
    OUTER_MODULES: ClassVar[tuple[str, ...]]
    """Small, and not quantised: sinusoids of large angles, and the layer whose error is the output's."""
    config: Any  # the constructor arguments, a dataclass
    blocks: nn.ModuleList

    def __init__(self, trunk: TrunkConfig) -> None:
        super().__init__()
        self.trunk = trunk
        self.replacements = nn.ModuleDict()

    @property
    def out_channels(self) -> int:
        """Channels of `out`."""
        return self.trunk.in_channels

    def replace_at(self, layers: Sequence[int], replacement: RecursiveReplacement) -> None:
        """Applies `replacement` to the output tokens of each block in `layers`."""
        for layer in layers:
            self.replacements[str(layer)] = replacement


class RegisterTrunk(Trunk, ABC):
    """One whose registers are the same rows for every image: they enter in mid-stack, and replacement borrows them."""

    @abstractmethod
    def registers(self) -> Tensor:
        """The register rows as they enter the sequence, [R, D]."""

    def walk(self, h: Tensor, c: Tensor, rope: nn.Module, rope_incontext: nn.Module | None) -> Tensor:
        """Tokens [N, T, D] through the trunk's blocks -> [N, R + T, D]; `rope_incontext` knows the registers."""
        for i, block in enumerate(self.blocks[: self.trunk.depth]):
            if rope_incontext is not None and i == self.trunk.register_start:
                h, rope = DiffusionRegisters.prepend(h, self.registers()), rope_incontext
            h = block(h, c, rope)
            if str(i) in self.replacements:
                h = self._replace(i, h)
        return h

    def _replace(self, layer: int, h: Tensor) -> Tensor:
        replacement = self.replacements[str(layer)]
        borrows = replacement.registers is None and self.trunk.register_conditioning
        own = self.registers() if borrows else None
        return replacement(h, own)  # type: ignore[no-any-return]
