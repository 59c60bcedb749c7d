"""The `dit` family: scalable diffusion transformers (arXiv 2212.09748), optionally with diffusion registers.

Module and parameter names follow the released checkpoints, so that `load_state_dict(strict=True)` accepts them.
Shapes: N batch, T patches, R registers, D hidden size, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsr_export.families.network_parts.embeddings import (
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    sincos_2d,
    unpatchify,
)
from dsr_export.families.network_parts.layers import Block, FinalLayer
from dsr_export.families.network_parts.trunk import RegisterTrunk
from dsr_export.registers import DiffusionRegisters


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

    @property
    def grid(self) -> int:
        """Patches in a row of the image."""
        return self.input_size // self.patch_size


class Dit(RegisterTrunk):
    """DiT: `forward(x [N, C, H, W], t [N], y [N] int64) -> out [N, 2 C, H, W]`, `t` being the step, 0 to 999.

    `out` is all that the released model gives: the noise in the first C channels, and in the others, where
    `learn_sigma` is set, how its variance lies between the two bounds (used by the ancestral sampler alone).
    """

    FAMILY = "dit"
    OUTER_MODULES = ("x_embedder", "t_embedder", "y_embedder", "final_layer")
    config: DitConfig

    def __init__(self, config: DitConfig) -> None:
        super().__init__(config)
        self.config = config
        dim, outputs = config.hidden_size, config.in_channels * (2 if config.learn_sigma else 1)
        self.x_embedder = PatchEmbed(config.patch_size, config.in_channels, dim)
        self.t_embedder = TimestepEmbedder(dim)
        self.y_embedder = LabelEmbedder(config.num_classes, dim, config.class_dropout_prob)
        self.pos_embed = nn.Parameter(sincos_2d(dim, config.grid)[None], requires_grad=False)
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
