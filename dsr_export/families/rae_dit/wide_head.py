"""The `rae-dit-dh` family: DiT^DH, a LightningDiT trunk whose tokens steer a wide head (RAE, arXiv 2510.11690).

Module and parameter names follow the released checkpoints, so that `load_state_dict(strict=True)` accepts them.
Shapes: N batch, T patches, R registers, D hidden size of the trunk, W that of the head, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsr_export.families.network_parts.embeddings import (
    GaussianFourierEmbedding,
    LabelEmbedder,
    PatchEmbed,
    register_positions,
    sincos_2d,
)
from dsr_export.families.network_parts.layers import FinalLayer
from dsr_export.families.network_parts.trunk import RegisterTrunk
from dsr_export.families.rae_dit.network import RaeDitConfig
from dsr_export.registers import DiffusionRegisters

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class RaeDitDhConfig:
    """Constructor arguments of the released `DiTwDDTHead`, under their released names; pairs are (trunk, head).

    `use_rope: false` and `wo_shift` make models that cannot run there, as do patches other than 1: all are refused.
    """

    input_size: int = 16
    patch_size: Pair = (1, 1)
    in_channels: int = 768
    hidden_size: Pair = (1152, 2048)
    depth: Pair = (28, 2)
    num_heads: Pair = (16, 16)
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    class_dropout_prob: float = 0.1
    use_qknorm: bool = False
    use_swiglu: bool = True
    use_rope: bool = True
    use_rmsnorm: bool = True
    use_pos_embed: bool = True
    wo_shift: bool = False
    register_conditioning: bool = False
    register_len: int = 0
    register_start: int = 0

    @property
    def trunk(self) -> RaeDitConfig:
        """The deep stack, which registers enter at `register_start` and replacement works on."""
        return self._stack(0, self.register_start)

    @property
    def head(self) -> RaeDitConfig:
        """The wide stack, whose registers are there from its first block."""
        return self._stack(1, 0)

    def _stack(self, i: int, register_start: int) -> RaeDitConfig:
        return RaeDitConfig(
            input_size=self.input_size,
            patch_size=self.patch_size[i],
            in_channels=self.in_channels,
            hidden_size=self.hidden_size[i],
            depth=self.depth[i],
            num_heads=self.num_heads[i],
            mlp_ratio=self.mlp_ratio,
            num_classes=self.num_classes,
            class_dropout_prob=self.class_dropout_prob,
            use_qknorm=self.use_qknorm,
            use_swiglu=self.use_swiglu,
            use_rmsnorm=self.use_rmsnorm,
            register_conditioning=self.register_conditioning,
            register_len=self.register_len,
            register_start=register_start,
        )


class RaeDitDh(RegisterTrunk):
    """DiT^DH: `forward(x [N, C, H, W], t [N], y [N] int64) -> out [N, C, H, W]`, `t = 1` being noise.

    Blocks 0 to depth[0] - 1 are the trunk's, the rest the head's. The trunk's output tokens, its registers'
    included, are the AdaLN condition of the head's tokens, one for one. Weights are loaded or drawn, never trained
    here, so the constructor leaves them at PyTorch's defaults.
    """

    FAMILY = "rae-dit-dh"
    OUTER_MODULES = ("x_embedder", "s_embedder", "t_embedder", "y_embedder", "final_layer")
    config: RaeDitDhConfig

    def __init__(self, config: RaeDitDhConfig) -> None:
        trunk, head = config.trunk, config.head
        super().__init__(trunk)
        self.config = config
        dim, wide = trunk.hidden_size, head.hidden_size
        self.x_embedder = PatchEmbed(1, config.in_channels, wide)
        self.s_embedder = PatchEmbed(1, config.in_channels, dim)
        self.s_projector = nn.Linear(dim, wide) if dim != wide else nn.Identity()
        self.t_embedder = GaussianFourierEmbedding(dim)
        self.y_embedder = LabelEmbedder(config.num_classes, dim, config.class_dropout_prob)
        if config.use_pos_embed:
            self.pos_embed = nn.Parameter(sincos_2d(dim, trunk.grid)[None], requires_grad=False)
        self.enc_feat_rope, self.dec_feat_rope = trunk.rope(registers=False), head.rope(registers=False)
        self.enc_feat_rope_incontext: nn.Module | None = None
        self.dec_feat_rope_incontext: nn.Module | None = None
        if config.register_conditioning:
            self._add_registers()
        self.blocks = nn.ModuleList([*trunk.blocks(), *head.blocks()])
        self.final_layer = FinalLayer(wide, config.in_channels, rms_norm=config.use_rmsnorm)

    def _add_registers(self) -> None:
        trunk, head, count = self.config.trunk, self.config.head, self.config.register_len
        self.enc_register_tokens = nn.Parameter(torch.randn(1, count, trunk.hidden_size))
        self.dec_register_tokens = nn.Parameter(torch.randn(1, count, head.hidden_size))
        self.enc_register_pos_embed = nn.Parameter(register_positions(trunk.hidden_size, count)[None])
        self.dec_register_pos_embed = nn.Parameter(register_positions(head.hidden_size, count)[None])
        self.enc_feat_rope_incontext, self.dec_feat_rope_incontext = (
            trunk.rope(registers=True),
            head.rope(registers=True),
        )

    def registers(self) -> Tensor:
        """The trunk's register rows as they enter the sequence, [R, D]."""
        return (self.enc_register_tokens + self.enc_register_pos_embed)[0]

    def head_registers(self) -> Tensor:
        """The head's register rows, [R, W]."""
        return (self.dec_register_tokens + self.dec_register_pos_embed)[0]

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        time = self.t_embedder(t)  # [N, D]
        c = F.silu(time + self.y_embedder(y))  # AdaLN applies SiLU once more, as released
        s = self.s_embedder(x)  # [N, T, D]
        if self.config.use_pos_embed:
            s = s + self.pos_embed
        s = self.walk(s, c, self.enc_feat_rope, self.enc_feat_rope_incontext)  # [N, R + T, D]
        s = self.s_projector(F.silu(time.unsqueeze(1) + s))  # [N, R + T, W]
        return self._unpatchify(self._head(self.x_embedder(x), s))

    def _head(self, h: Tensor, s: Tensor) -> Tensor:
        """Tokens [N, T, W] under the conditions `s` [N, R + T, W] -> [N, T, C]."""
        rope: nn.Module = self.dec_feat_rope
        if self.dec_feat_rope_incontext is not None:
            h, rope = DiffusionRegisters.prepend(h, self.head_registers()), self.dec_feat_rope_incontext
        for block in self.blocks[self.trunk.depth :]:
            h = block(h, s, rope)
        if self.config.register_conditioning:
            h, s = (DiffusionRegisters.drop(tokens, self.config.register_len) for tokens in (h, s))
        return self.final_layer(h, s)  # type: ignore[no-any-return]

    def _unpatchify(self, h: Tensor) -> Tensor:  # [N, T, C] -> [N, C, H, W]
        size = self.config.input_size
        return h.transpose(1, 2).unflatten(2, (size, size))  # type: ignore[no-untyped-call,no-any-return]
