"""The `jit` family: "just image" transformers (arXiv 2511.13720), large patches of pixels without a latent space.

Module and parameter names follow the released checkpoints, so that `load_state_dict(strict=True)` accepts them.
Shapes: N batch, T patches, R in-context tokens, D hidden size, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsr_export.families.network_parts.embeddings import (
    LabelEmbedder,
    RotaryEmbedding2D,
    TimestepEmbedder,
    sincos_2d,
    unpatchify,
)
from dsr_export.families.network_parts.layers import Block, FinalLayer
from dsr_export.families.network_parts.trunk import Trunk
from dsr_export.registers import DiffusionRegisters


@dataclass(frozen=True, kw_only=True)
class JitConfig:
    """Constructor arguments of the released `JiT`. Its in-context tokens are registers, and called so here.

    `register_len` and `register_start` are released as `in_context_len` and `in_context_start`.
    """

    input_size: int = 256
    patch_size: int = 16
    in_channels: int = 3
    hidden_size: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    bottleneck_dim: int = 128
    register_conditioning: bool = True
    register_len: int = 32
    register_start: int = 8

    @property
    def grid(self) -> int:
        """Patches in a row of the image."""
        return self.input_size // self.patch_size


class ComputedRotary(RotaryEmbedding2D):
    """A rotary embedding whose tables are in no checkpoint, and so are there even in a model without memory."""

    def reset(self) -> None:
        with torch.device("cpu"):
            super().reset()
        for name in ("freqs_cos", "freqs_sin"):
            self.register_buffer(name, getattr(self, name), persistent=False)


class BottleneckPatchEmbed(nn.Module):
    """A patch of pixels through a few channels: it has more values than there is signal in it."""

    def __init__(self, patch_size: int, channels: int, bottleneck: int, dim: int) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(channels, bottleneck, kernel_size=patch_size, stride=patch_size, bias=False)
        self.proj2 = nn.Conv2d(bottleneck, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, T, D]
        return self.proj2(self.proj1(x)).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Jit(Trunk):
    """JiT: `forward(x [N, C, H, W], t [N], y [N] int64) -> out`, as `x`: the image. `t` is 0 for noise, 1 for data.

    In-context tokens are the label's embedding plus a trained position: they differ from image to image, so that
    replacement cannot borrow them.
    """

    FAMILY = "jit"
    OUTER_MODULES = ("x_embedder", "t_embedder", "y_embedder", "final_layer")
    config: JitConfig

    def __init__(self, config: JitConfig) -> None:
        super().__init__(config)
        self.config = config
        dim, head_dim = config.hidden_size, config.hidden_size // config.num_heads
        self.t_embedder = TimestepEmbedder(dim)
        self.y_embedder = LabelEmbedder(config.num_classes, dim, dropout=1.0)  # always with a null label
        self.x_embedder = BottleneckPatchEmbed(config.patch_size, config.in_channels, config.bottleneck_dim, dim)
        self.pos_embed = nn.Parameter(sincos_2d(dim, config.grid)[None], requires_grad=False)
        self.feat_rope = ComputedRotary(head_dim, config.grid)
        if config.register_conditioning:
            self.in_context_posemb = nn.Parameter(torch.zeros(1, config.register_len, dim))
            self.feat_rope_incontext = ComputedRotary(head_dim, config.grid, prefix=config.register_len)
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, mlp_ratio=config.mlp_ratio, qk_norm=True) for _ in range(config.depth)
        )
        self.final_layer = FinalLayer(dim, config.patch_size**2 * config.in_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        label = self.y_embedder(y)
        c = self.t_embedder(t) + label  # [N, D]
        h = self.x_embedder(x) + self.pos_embed  # [N, T, D]
        rope = self.feat_rope
        for i, block in enumerate(self.blocks):
            if self.config.register_conditioning and i == self.config.register_start:
                h = torch.cat([label[:, None] + self.in_context_posemb, h], dim=1)  # [N, R + T, D]
                rope = self.feat_rope_incontext
            h = block(h, c, rope)
            if str(i) in self.replacements:
                h = self.replacements[str(i)](h)
        if self.config.register_conditioning:
            h = DiffusionRegisters.drop(h, self.config.register_len)
        return unpatchify(self.final_layer(h, c), self.config.patch_size)
