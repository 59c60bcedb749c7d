"""What the shapes of a denoiser's checkpoint say of it: registers, latent, patches, widths, blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dsr_export.families.schema import Value

Widths = tuple[str, int]
"""Hidden sizes, `1152`, `1152 + 2048` or `1152, patch size 2`, and the number of blocks."""
PATCHES = "x_embedder.proj.weight"


def denoiser_sizes(
    state: Mapping[str, Tensor], *, registers: str = "register_tokens", patches: str = PATCHES
) -> dict[str, Value]:
    """Sizes by option: registers, latent size and channels, patch size. `registers` and `patches` name tensors."""
    sizes: dict[str, Value] = {"register_len": register_count(state, registers)}
    patch, position = state.get(patches), state.get("pos_embed")
    if patch is not None and patch.ndim == 4:
        sizes |= {"in_channels": patch.shape[1], "patch_size": patch.shape[2]}
        if position is not None and position.ndim == 3:
            sizes["input_size"] = math.isqrt(position.shape[1]) * patch.shape[2]
    return sizes


def register_count(state: Mapping[str, Tensor], name: str) -> int:
    """R of register tokens [1, R, D]; 0 where there are none."""
    tokens = state.get(name)
    return tokens.shape[1] if tokens is not None and tokens.ndim == 3 else 0


def count_blocks(state: Mapping[str, Tensor]) -> int:
    """Blocks in a checkpoint."""
    return len({key.split(".")[1] for key in state if key.startswith("blocks.")})


def widths_in(state: Mapping[str, Tensor], patches: str = PATCHES) -> Widths | None:
    """Hidden size, patch size and depth of a checkpoint whose family's models differ in all three."""
    position, patch, blocks = state.get("pos_embed"), state.get(patches), count_blocks(state)
    if position is None or patch is None or patch.ndim != 4 or not blocks:
        return None
    return _widths(position.shape[-1], patch.shape[2]), blocks


def widths_of(config: Any) -> Widths:
    """Hidden size, patch size and depth of a configuration."""
    return _widths(config.hidden_size, config.patch_size), config.depth


def _widths(hidden: int, patch: int) -> str:
    return f"{hidden}, patch size {patch}"
