"""Seeded random weights for models with registers that exercise every path; AdaLN-Zero's start outputs zeros."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from dsr_export.families.config_bounds import check_memory
from dsr_export.families.rae_dit.layers import RotaryEmbedding2D, sincos_2d
from dsr_export.families.rae_dit.network import RaeDit, RaeDitConfig

Config = TypeVar("Config")
Module = TypeVar("Module", bound=nn.Module)
ADALN_GAIN = 0.5  # keeps |gate| in O(0.1 - 1): branches matter, and the residual stream stays O(1) at depth 28


def empty_module(config: RaeDitConfig) -> RaeDit:
    """`without_memory` of a `RaeDit`."""
    return without_memory(RaeDit, config)


def random_module(config: RaeDitConfig, seed: int) -> RaeDit:
    """`drawn` of a `RaeDit`."""
    return drawn(RaeDit, config, seed)


def without_memory(build: Callable[[Config], Module], config: Config) -> Module:
    """The architecture on the meta device: no initialisation, and no use of torch's global RNG."""
    with torch.device("meta"):
        return build(config)


def drawn(build: Callable[[Config], Module], config: Config, seed: int) -> Module:
    """A module whose weights depend on `config` and `seed` alone; float32 on the CPU."""
    module = without_memory(build, config)
    check_memory(sum(weight.numel() for weight in module.parameters()), type(module).__name__)
    module.to_empty(device="cpu")
    _restore_tables(module)
    randomise(module, seed)
    return module


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Draws every weight in place, AdaLN, output layers and biases included.

    RoPE buffers and `pos_embed` stay as they are. Scales keep activations near unit variance.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        if name != "pos_embed":
            mean, std = _moments(name, weight)
            weight.normal_(mean, std, generator=generator)


def _moments(name: str, weight: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the weight called `name`."""
    adaln = ".adaLN_modulation." in f".{name}"
    if name == "t_embedder.W" or name.endswith(("register_tokens", "embedding_table.weight")):
        return 0.0, 1.0
    if name.endswith(("register_pos_embed", "in_context_posemb")):
        return 0.0, 0.5  # trained in the released recipe, so no longer sin-cos
    if name.endswith("bias"):
        return 0.0, 0.2 if adaln else 0.05
    if weight.ndim == 1:
        return 1.0, 0.1  # norms
    fan_in = weight.numel() // weight.shape[0]
    return 0.0, (ADALN_GAIN if adaln else 1.0) * fan_in**-0.5


@torch.no_grad()
def _restore_tables(module: nn.Module) -> None:
    """Recomputes what is computed, not drawn, and was lost on the meta device."""
    for each in module.modules():
        if isinstance(each, RotaryEmbedding2D):
            each.reset()
    position = getattr(module, "pos_embed", None)
    if position is not None:
        position.copy_(sincos_2d(position.shape[2], math.isqrt(position.shape[1])))
