"""The `rae-dit` family: LightningDiT with diffusion registers (RAE, arXiv 2510.11690; DSR, arXiv 2605.05206).

Module and parameter names follow the released checkpoints, so that `load_state_dict(strict=True)` accepts them.
Shapes: N batch, T patches, R registers, D hidden size, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsr_export.registers import DiffusionRegisters, RecursiveReplacement


@dataclass(frozen=True, kw_only=True)
class RaeDitConfig:
    """Constructor arguments of the released `LightningDiT`, under their released names."""

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
    register_conditioning: bool = False
    register_len: int = 0
    register_start: int = 0

    @property
    def num_patches(self) -> int:
        return (self.input_size // self.patch_size) ** 2

    @property
    def swiglu_hidden(self) -> int:
        return int(2 / 3 * int(self.hidden_size * self.mlp_ratio))


class RMSNorm(nn.Module):
    """Root-mean-square norm with an affine weight, reduced in float32 whatever the input's type."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        h = x.float()
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self.eps)
        return h.type_as(x) * self.weight


class RotaryEmbedding2D(nn.Module):
    """Interleaved rotary embedding: the first half of a head encodes the row, the second half the column.

    `prefix` rows in front of the image are left unrotated (cos 1, sin 0): these are the registers.
    """

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, head_dim: int, grid: int, *, prefix: int = 0, theta: float = 1e4) -> None:
        super().__init__()
        half = head_dim // 2
        bands = theta ** -(torch.arange(0, half, 2).float() / half)  # [half / 2]
        angle = (torch.arange(grid).float()[:, None] * bands).repeat_interleave(2, dim=-1)  # [grid, half]
        rows = angle[:, None].expand(grid, grid, half)
        columns = angle[None].expand(grid, grid, half)
        angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # [grid * grid, head_dim]
        angles = torch.cat([torch.zeros(prefix, head_dim), angles])
        self.register_buffer("freqs_cos", angles.cos())
        self.register_buffer("freqs_sin", angles.sin())

    def forward(self, x: Tensor) -> Tensor:  # [N, heads, tokens, head_dim]
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)  # type: ignore[no-untyped-call]
        rotated = torch.stack((-odd, even), dim=-1).flatten(-2)
        return x * self.freqs_cos + rotated * self.freqs_sin


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = RMSNorm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: nn.Module) -> Tensor:  # [N, tokens, D]
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = rope(self.q_norm(q)), rope(self.k_norm(k))  # [N, heads, tokens, head_dim]
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)  # type: ignore[no-any-return]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """AdaLN: [N, tokens, D] scaled and shifted by one [N, D] pair, the same for every token."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Block(nn.Module):
    """Pre-norm transformer block with AdaLN-Zero, 6-way; registers are modulated like any other token."""

    def __init__(self, config: RaeDitConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.norm1 = RMSNorm(dim)
        self.attn = Attention(dim, config.num_heads, qk_norm=config.use_qknorm)
        self.norm2 = RMSNorm(dim)
        self.mlp = SwiGLU(dim, config.swiglu_hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, c: Tensor, rope: nn.Module) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1), rope)
        x = x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))
        return x


class FinalLayer(nn.Module):
    def __init__(self, dim: int, out_features: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(dim)
        self.linear = nn.Linear(dim, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    def __init__(self, patch_size: int, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, T, D]
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class GaussianFourierEmbedding(nn.Module):
    """t [N] -> [N, D] by random Fourier features; `W` is loaded, never regenerated (it is part of the weights)."""

    def __init__(self, dim: int, features: int = 256) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(features), requires_grad=False)
        self.mlp = nn.Sequential(nn.Linear(2 * features, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.W[None] * 2 * math.pi
        return self.mlp(torch.cat([angle.sin(), angle.cos()], dim=-1))  # type: ignore[no-any-return]


class LabelEmbedder(nn.Module):
    """y [N] -> [N, D]. With label dropout the table has one more row: the null label, `num_classes`."""

    def __init__(self, num_classes: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + (dropout > 0), dim)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)  # type: ignore[no-any-return]


class RaeDit(nn.Module):
    """LightningDiT: `forward(x [N, C, H, W], t [N], y [N] int64) -> out [N, C, H, W]`, `t = 1` being noise.

    `replacements` maps a block index to the replacement applied to that block's output tokens; it holds no
    checkpoint keys of its own unless it has a gate.
    """

    def __init__(self, config: RaeDitConfig) -> None:
        super().__init__()
        self.config = config
        dim, head_dim = config.hidden_size, config.hidden_size // config.num_heads
        grid = config.input_size // config.patch_size
        self.out_channels = config.in_channels * (2 if config.learn_sigma else 1)
        self.x_embedder = PatchEmbed(config.patch_size, config.in_channels, dim)
        self.pos_embed = nn.Parameter(sincos_2d(dim, grid)[None], requires_grad=False)
        self.t_embedder = GaussianFourierEmbedding(dim)
        self.y_embedder = LabelEmbedder(config.num_classes, dim, config.class_dropout_prob)
        self.feat_rope = RotaryEmbedding2D(head_dim, grid)
        if config.register_conditioning:
            self.register_tokens = nn.Parameter(torch.randn(1, config.register_len, dim))
            self.register_pos_embed = nn.Parameter(_register_positions(dim, config.register_len)[None])
            self.feat_rope_incontext = RotaryEmbedding2D(head_dim, grid, prefix=config.register_len)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(dim, config.patch_size**2 * self.out_channels)
        self.replacements = nn.ModuleDict()
        _initialise(self)

    def registers(self) -> Tensor:
        """The register rows as they enter the sequence, [R, D]."""
        return (self.register_tokens + self.register_pos_embed)[0]

    def replace_at(self, layers: Sequence[int], replacement: RecursiveReplacement) -> None:
        """Applies `replacement` to the output tokens of each block in `layers`."""
        for layer in layers:
            self.replacements[str(layer)] = replacement

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h = self.x_embedder(x) + self.pos_embed  # [N, T, D]
        c = self.t_embedder(t) + self.y_embedder(y)  # [N, D]
        rope: nn.Module = self.feat_rope
        for i, block in enumerate(self.blocks):
            if self.config.register_conditioning and i == self.config.register_start:
                h = DiffusionRegisters.prepend(h, self.registers())  # [N, R + T, D]
                rope = self.feat_rope_incontext
            h = block(h, c, rope)
            if str(i) in self.replacements:
                h = self._replace(i, h)
        if self.config.register_conditioning:
            h = DiffusionRegisters.drop(h, self.config.register_len)
        return self._unpatchify(self.final_layer(h, c))

    def _replace(self, layer: int, h: Tensor) -> Tensor:
        replacement = self.replacements[str(layer)]
        borrows = replacement.registers is None and self.config.register_conditioning
        own = self.registers() if borrows else None
        return replacement(h, own)  # type: ignore[no-any-return]

    def _unpatchify(self, h: Tensor) -> Tensor:  # [N, T, patch * patch * C] -> [N, C, H, W]
        p, grid = self.config.patch_size, self.config.input_size // self.config.patch_size
        h = h.unflatten(-1, (p, p, self.out_channels)).unflatten(1, (grid, grid))  # type: ignore[no-untyped-call]
        image = h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return image[:, : self.config.in_channels]


def sincos_2d(dim: int, grid: int) -> Tensor:
    """Fixed 2-D sin-cos table [grid * grid, D]; the first half encodes the column, as in MAE and DiT."""
    omega = 1e4 ** -(torch.arange(dim // 4).double() / (dim / 4))
    angle = torch.arange(grid).double()[:, None] * omega  # [grid, D / 4]
    axis = torch.cat([angle.sin(), angle.cos()], dim=-1)  # [grid, D / 2]
    columns, rows = axis[None].expand(grid, -1, -1), axis[:, None].expand(-1, grid, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1).float()


def _register_positions(dim: int, count: int) -> Tensor:
    """Initial register positions on a square grid; trained afterwards, so only a starting point."""
    grid = math.isqrt(count)
    return sincos_2d(dim, grid) if grid * grid == count else torch.randn(count, dim) * 0.02


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
