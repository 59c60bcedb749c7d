"""The `dit` family: scalable diffusion transformers (arXiv 2212.09748), optionally with diffusion registers.

Module and parameter names follow the released checkpoints, so that `load_state_dict(strict=True)` accepts them.
Shapes: N batch, T patches, R registers, D hidden size, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from dsr_export.families.rae_dit.layers import Block, FinalLayer, LabelEmbedder, PatchEmbed, sincos_2d
from dsr_export.families.rae_dit.network import Trunk
from dsr_export.registers import DiffusionRegisters

MAX_PERIOD = 1e4


@dataclass(frozen=True, kw_only=True)
class DitConfig:
    """Constructor arguments of the released `DiT` under their released names, and those of diffusion registers.

    `input_size` is the latent's side: 32 for 256 px, 64 for 512 px.
    """

    input_size: int = 32
    patch_size: int = 2
    in_channels: int = 4
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    class_dropout_prob: float = 0.1
    num_classes: int = 1000
    learn_sigma: bool = True
    register_conditioning: bool = False
    register_len: int = 0
    register_start: int = 0


class TimestepEmbedder(nn.Module):
    """t [N] -> [N, D] by fixed cosines and sines, then an MLP. Times may be fractional; their scale is the model's."""

    def __init__(self, dim: int, features: int = 256) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        half = self.features // 2
        bands = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angle = t[:, None].float() * bands
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1))  # type: ignore[no-any-return]


class Dit(Trunk):
    """DiT: `forward(x [N, C, H, W], t [N], y [N] int64) -> out [N, 2 C, H, W]`, `t` being the step, 0 to 999.

    `out` is all that the released model gives: the noise in the first C channels, and in the others, where
    `learn_sigma` is set, how its variance lies between the two bounds (used by the ancestral sampler alone).
    """

    FAMILY = "dit"
    FP32_MODULES = ("x_embedder", "t_embedder", "y_embedder", "final_layer")
    config: DitConfig

    def __init__(self, config: DitConfig) -> None:
        super().__init__(cast(Any, config))  # of a trunk it asks for depth and registers only
        self.config = config
        dim, outputs = config.hidden_size, config.in_channels * (2 if config.learn_sigma else 1)
        grid = config.input_size // config.patch_size
        self.x_embedder = PatchEmbed(config.patch_size, config.in_channels, dim)
        self.t_embedder = TimestepEmbedder(dim)
        self.y_embedder = LabelEmbedder(config.num_classes, dim, config.class_dropout_prob)
        self.pos_embed = nn.Parameter(sincos_2d(dim, grid)[None], requires_grad=False)
        if config.register_conditioning:
            self.register_tokens = nn.Parameter(torch.randn(1, config.register_len, dim))
            self.register_pos_embed = nn.Parameter(torch.zeros(1, config.register_len, dim))
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, mlp_ratio=config.mlp_ratio, swiglu=False, rms_norm=False)
            for _ in range(config.depth)
        )
        self.final_layer = FinalLayer(dim, config.patch_size**2 * outputs, rms_norm=False)
        self.no_rope = nn.Identity()

    @property
    def out_channels(self) -> int:
        """Channels of `out`."""
        return self.final_layer.linear.out_features // self.config.patch_size**2

    def registers(self) -> Tensor:
        """The register rows as they enter the sequence, [R, D]."""
        return (self.register_tokens + self.register_pos_embed)[0]

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h = self.x_embedder(x) + self.pos_embed  # [N, T, D]
        c = self.t_embedder(t) + self.y_embedder(y)  # [N, D]
        h = self.walk(h, c, self.no_rope, self.no_rope if self.config.register_conditioning else None)
        if self.config.register_conditioning:
            h = DiffusionRegisters.drop(h, self.config.register_len)
        return unpatchify(self.final_layer(h, c), self.config.patch_size)


def unpatchify(tokens: Tensor, patch: int) -> Tensor:
    """[N, T, patch * patch * C] -> [N, C, H, W]; inside a token the order is row, column, channel."""
    grid = math.isqrt(tokens.shape[1])
    h = tokens.unflatten(-1, (patch, patch, -1)).unflatten(1, (grid, grid))  # type: ignore[no-untyped-call]
    return h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # type: ignore[no-any-return]
