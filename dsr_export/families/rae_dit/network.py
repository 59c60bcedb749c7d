"""The `rae-dit` family: LightningDiT with diffusion registers (RAE, arXiv 2510.11690; DSR, arXiv 2605.05206).

Module and parameter names follow the released checkpoints, so that `load_state_dict(strict=True)` accepts them.
Shapes: N batch, T patches, R registers, D hidden size, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsr_export.families.network_parts.embeddings import (
    GaussianFourierEmbedding,
    LabelEmbedder,
    PatchEmbed,
    RotaryEmbedding2D,
    register_positions,
    sincos_2d,
)
from dsr_export.families.network_parts.layers import Block, FinalLayer
from dsr_export.families.network_parts.trunk import RegisterTrunk
from dsr_export.registers import DiffusionRegisters


@dataclass(frozen=True, kw_only=True)
class RaeDitConfig:
    """Constructor arguments of the released `LightningDiT`, under their released names.

    `use_gembed` changes nothing there, and `wo_shift` makes a model that cannot run: it is refused.
    """

    input_size: int = 16
    patch_size: int = 1
    in_channels: int = 768
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    class_dropout_prob: float = 0.1
    learn_sigma: bool = False
    use_qknorm: bool = False
    use_swiglu: bool = True
    use_rope: bool = True
    use_rmsnorm: bool = True
    use_gembed: bool = True
    wo_shift: bool = False
    final_no_ln: bool = False
    attn_with_bias: bool = False
    register_conditioning: bool = False
    register_len: int = 0
    register_start: int = 0

    @property
    def trunk(self) -> RaeDitConfig:
        """The stack of blocks that registers enter and replacement works on: all of it."""
        return self

    @property
    def grid(self) -> int:
        """Patches in a row of the image."""
        return self.input_size // self.patch_size

    def blocks(self) -> list[Block]:
        """New blocks, `depth` of them."""
        return [
            Block(
                self.hidden_size,
                self.num_heads,
                mlp_ratio=self.mlp_ratio,
                qk_norm=self.use_qknorm,
                swiglu=self.use_swiglu,
                rms_norm=self.use_rmsnorm,
                sink=self.attn_with_bias,
            )
            for _ in range(self.depth)
        ]

    def rope(self, *, registers: bool) -> RotaryEmbedding2D:
        """New rotary tables; with `registers`, these come first and are not rotated."""
        head_dim = self.hidden_size // self.num_heads
        return RotaryEmbedding2D(head_dim, self.grid, prefix=self.register_len if registers else 0)


class RaeDit(RegisterTrunk):
    """LightningDiT: `forward(x [N, C, H, W], t [N], y [N] int64) -> out [N, C, H, W]`, `t = 1` being noise."""

    FAMILY = "rae-dit"
    OUTER_MODULES = ("x_embedder", "t_embedder", "y_embedder", "final_layer")
    config: RaeDitConfig

    def __init__(self, config: RaeDitConfig) -> None:
        super().__init__(config)
        self.config = config
        dim = config.hidden_size
        self.made_channels = config.in_channels * (2 if config.learn_sigma else 1)  # of which the first half leaves
        self.x_embedder = PatchEmbed(config.patch_size, config.in_channels, dim)
        self.pos_embed = nn.Parameter(sincos_2d(dim, config.grid)[None], requires_grad=False)
        self.t_embedder = GaussianFourierEmbedding(dim)
        self.y_embedder = LabelEmbedder(config.num_classes, dim, config.class_dropout_prob)
        self.feat_rope = config.rope(registers=False) if config.use_rope else nn.Identity()
        self.feat_rope_incontext = None
        if config.register_conditioning:
            self.register_tokens = nn.Parameter(torch.randn(1, config.register_len, dim))
            self.register_pos_embed = nn.Parameter(register_positions(dim, config.register_len)[None])
            self.feat_rope_incontext = config.rope(registers=True)
        self.blocks = nn.ModuleList(config.blocks())
        self.final_layer = FinalLayer(
            dim, config.patch_size**2 * self.made_channels, rms_norm=config.use_rmsnorm, norm=not config.final_no_ln
        )
        _initialise(self)

    def registers(self) -> Tensor:
        """The register rows as they enter the sequence, [R, D]."""
        return (self.register_tokens + self.register_pos_embed)[0]

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h = self.x_embedder(x) + self.pos_embed  # [N, T, D]
        c = self.t_embedder(t) + self.y_embedder(y)  # [N, D]
        h = self.walk(h, c, self.feat_rope, self.feat_rope_incontext)
        if self.config.register_conditioning:
            h = DiffusionRegisters.drop(h, self.config.register_len)
        return self._unpatchify(self.final_layer(h, c))

    def _unpatchify(self, h: Tensor) -> Tensor:  # [N, T, patch * patch * C] -> [N, C, H, W]
        p, grid = self.config.patch_size, self.config.grid
        h = h.unflatten(-1, (p, p, self.made_channels)).unflatten(1, (grid, grid))  # type: ignore[no-untyped-call]
        image = h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return image[:, : self.config.in_channels]


def _initialise(model: RaeDit) -> None:
    """Xavier for linears, zeros for AdaLN and output layers (AdaLN-Zero), as released."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(model.x_embedder.proj.weight.data.flatten(1))
    nn.init.normal_(model.y_embedder.embedding_table.weight, std=0.02)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and ("adaLN_modulation" in name or name == "final_layer.linear"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
