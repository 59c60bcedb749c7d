"""Seeded random weights that exercise every path: a model that starts with zeros, as AdaLN-Zero does, shows nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TypeVar

import torch
from torch import Tensor, nn

from dsr_export.families.config_bounds import check_memory
from dsr_export.families.network_parts.embeddings import RotaryEmbedding2D, sincos_2d

Config = TypeVar("Config")
Module = TypeVar("Module", bound=nn.Module)
Moments = tuple[float, float]
"""Mean and standard deviation of a weight."""
ADALN_GAIN = 0.5  # keeps |gate| in O(0.1 - 1): branches matter, and the residual stream stays O(1) at depth 28


def without_memory(build: Callable[[Config], Module], config: Config) -> Module:
    """The architecture on the meta device: no initialisation, and no use of torch's global RNG."""
    with torch.device("meta"):
        return build(config)


def drawn(build: Callable[[Config], Module], config: Config, seed: int) -> Module:
    """A denoiser whose weights depend on `config` and `seed` alone; float32 on the CPU."""
    module = without_memory(build, config)
    check_memory(sum(weight.numel() for weight in module.parameters()), type(module).__name__)
    module.to_empty(device="cpu")
    _restore_tables(module)
    draw_weights(module, seed, _denoiser_moments, kept=("pos_embed",))
    return module


@torch.no_grad()
def draw_weights(
    module: nn.Module, seed: int, moments: Callable[[str, Tensor], Moments], *, kept: Collection[str] = ()
) -> None:
    """Draws every weight in place, biases and output layers included, but for the names in `kept`."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        if name not in kept:
            mean, std = moments(name, weight)
            weight.normal_(mean, std, generator=generator)


def usual_moments(name: str, weight: Tensor) -> Moments:
    """Of a norm, a bias, or else a layer: scales that keep activations near unit variance."""
    if name.endswith("bias"):
        return 0.0, 0.05
    if weight.ndim == 1:
        return 1.0, 0.1  # norms, layer scales
    return 0.0, float((weight.numel() // weight.shape[0]) ** -0.5)


def _denoiser_moments(name: str, weight: Tensor) -> Moments:
    adaln = ".adaLN_modulation." in f".{name}"
    if name == "t_embedder.W" or name.endswith(("register_tokens", "embedding_table.weight")):
        return 0.0, 1.0
    if name.endswith(("register_pos_embed", "in_context_posemb")):
        return 0.0, 0.5  # trained in the released recipe, so no longer sin-cos
    mean, std = usual_moments(name, weight)
    if adaln and name.endswith("bias"):
        return mean, 0.2
    return mean, std * ADALN_GAIN if adaln and weight.ndim > 1 else std


@torch.no_grad()
def _restore_tables(module: nn.Module) -> None:
    """Recomputes what is computed, not drawn, and was lost on the meta device."""
    for each in module.modules():
        if isinstance(each, RotaryEmbedding2D):
            each.reset()
    position = getattr(module, "pos_embed", None)
    if position is not None:
        position.copy_(sincos_2d(position.shape[2], math.isqrt(position.shape[1])))
