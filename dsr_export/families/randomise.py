"""Seeded random weights for `RaeDit` that exercise every path; the released start (AdaLN-Zero) outputs zeros."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsr_export.families.rae_dit import RaeDit, RaeDitConfig, RotaryEmbedding2D, sincos_2d

ADALN_GAIN = 0.5  # keeps |gate| in O(0.1 - 1): branches matter, and the residual stream stays O(1) at depth 28


def empty_module(config: RaeDitConfig) -> RaeDit:
    """The architecture without memory (on the meta device): no initialisation, and no use of torch's global RNG."""
    with torch.device("meta"):
        return RaeDit(config)


def random_module(config: RaeDitConfig, seed: int) -> RaeDit:
    """A `RaeDit` whose weights depend on `config` and `seed` alone; float32 on the CPU."""
    module = empty_module(config)
    module.to_empty(device="cpu")
    _restore_tables(module)
    randomise(module, seed)
    return module


@torch.no_grad()
def randomise(module: RaeDit, seed: int) -> None:
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
    if name == "register_pos_embed":
        return 0.0, 0.5  # trained in the released recipe, so no longer sin-cos
    if name.endswith("bias"):
        return 0.0, 0.2 if adaln else 0.05
    if weight.ndim == 1:
        return 1.0, 0.1  # norms
    fan_in = weight.numel() // weight.shape[0]
    return 0.0, (ADALN_GAIN if adaln else 1.0) * fan_in**-0.5


def _restore_tables(module: RaeDit) -> None:
    """Recomputes what is computed, not drawn, and was lost on the meta device."""
    config = module.config
    grid, head = config.input_size // config.patch_size, config.hidden_size // config.num_heads
    module.pos_embed = nn.Parameter(sincos_2d(config.hidden_size, grid)[None], requires_grad=False)
    module.feat_rope = RotaryEmbedding2D(head, grid)
    if config.register_conditioning:
        module.feat_rope_incontext = RotaryEmbedding2D(head, grid, prefix=config.register_len)
