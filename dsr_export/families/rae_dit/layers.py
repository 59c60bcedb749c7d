"""Layers of LightningDiT and its wide head, by the names they have in released checkpoints.

Shapes: N batch, T patches, R registers, D hidden size, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        self.head_dim, self.grid, self.prefix, self.theta = head_dim, grid, prefix, theta
        self.reset()

    def reset(self) -> None:
        """Computes the tables, on the current default device."""
        half, grid = self.head_dim // 2, self.grid
        bands = self.theta ** -(torch.arange(0, half, 2).float() / half)  # [half / 2]
        angle = (torch.arange(grid).float()[:, None] * bands).repeat_interleave(2, dim=-1)  # [grid, half]
        rows = angle[:, None].expand(grid, grid, half)
        columns = angle[None].expand(grid, grid, half)
        angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # [grid * grid, head_dim]
        angles = torch.cat([torch.zeros(self.prefix, self.head_dim), angles])
        self.register_buffer("freqs_cos", angles.cos())
        self.register_buffer("freqs_sin", angles.sin())

    def forward(self, x: Tensor) -> Tensor:  # [N, heads, tokens, head_dim]
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)  # type: ignore[no-untyped-call]
        rotated = torch.stack((-odd, even), dim=-1).flatten(-2)
        return x * self.freqs_cos + rotated * self.freqs_sin


class Attention(nn.Module):
    """Self-attention. `sink` adds one learned key and value per head, which every token may attend to."""

    def __init__(self, dim: int, num_heads: int, *, qk_norm: bool, rms_norm: bool = True, sink: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        norm = RMSNorm if rms_norm else nn.LayerNorm
        self.q_norm = norm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = norm(self.head_dim) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)
        self.sink = sink
        if sink:
            self.k_bias = nn.Parameter(torch.randn(1, num_heads, 1, self.head_dim) * 0.02)
            self.v_bias = nn.Parameter(torch.randn(1, num_heads, 1, self.head_dim) * 0.02)

    def forward(self, x: Tensor, rope: nn.Module) -> Tensor:  # [N, tokens, D]
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = rope(self.q_norm(q)), rope(self.k_norm(k))  # [N, heads, tokens, head_dim]
        if self.sink:
            k, v = self._with_sink(self.k_bias, k), self._with_sink(self.v_bias, v)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    @staticmethod
    def _with_sink(sink: Tensor, rows: Tensor) -> Tensor:
        return torch.cat([sink.expand(rows.shape[0], -1, -1, -1), rows], dim=2)


class SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """What `use_swiglu: false` stands for."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))  # type: ignore[no-any-return]


def ada_ln(dim: int, parts: int) -> nn.Sequential:
    """Condition [..., D] -> [..., parts * D]."""
    return nn.Sequential(nn.SiLU(), nn.Linear(dim, parts * dim))


def per_token(part: Tensor) -> Tensor:
    """What AdaLN made of a condition of its own for each token, [N, tokens, D], or of one for all, [N, D]."""
    return part if part.ndim == 3 else part.unsqueeze(1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """AdaLN: tokens [N, tokens, D], scaled and shifted; the pair may be [N, D], the same for every token."""
    return x * (1 + per_token(scale)) + per_token(shift)


def norm_layer(dim: int, *, rms_norm: bool) -> nn.Module:
    """The norm in front of a branch: RMS with a weight, or LayerNorm without any."""
    return RMSNorm(dim) if rms_norm else nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)


class Block(nn.Module):
    """Pre-norm transformer block with AdaLN-Zero, 6-way; registers are modulated like any other token."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        swiglu: bool = True,
        rms_norm: bool = True,
        sink: bool = False,
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = norm_layer(dim, rms_norm=rms_norm)
        self.attn = Attention(dim, num_heads, qk_norm=qk_norm, rms_norm=rms_norm, sink=sink)
        self.norm2 = norm_layer(dim, rms_norm=rms_norm)
        self.mlp = SwiGLU(dim, int(2 / 3 * hidden)) if swiglu else Mlp(dim, hidden)
        self.adaLN_modulation = ada_ln(dim, 6)

    def forward(self, x: Tensor, c: Tensor, rope: nn.Module) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=c.ndim - 1)
        x = x + per_token(gate1) * self.attn(modulate(self.norm1(x), shift1, scale1), rope)
        x = x + per_token(gate2) * self.mlp(modulate(self.norm2(x), shift2, scale2))
        return x


class FinalLayer(nn.Module):
    """`norm=False` leaves the norm out (`final_no_ln`)."""

    def __init__(self, dim: int, out_features: int, *, rms_norm: bool = True, norm: bool = True) -> None:
        super().__init__()
        self.norm_final = norm_layer(dim, rms_norm=rms_norm) if norm else nn.Identity()
        self.linear = nn.Linear(dim, out_features)
        self.adaLN_modulation = ada_ln(dim, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=c.ndim - 1)
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


def sincos_2d(dim: int, grid: int) -> Tensor:
    """Fixed 2-D sin-cos table [grid * grid, D]; the first half encodes the column, as in MAE and DiT."""
    omega = 1e4 ** -(torch.arange(dim // 4).double() / (dim / 4))
    angle = torch.arange(grid).double()[:, None] * omega  # [grid, D / 4]
    axis = torch.cat([angle.sin(), angle.cos()], dim=-1)  # [grid, D / 2]
    columns, rows = axis[None].expand(grid, -1, -1), axis[:, None].expand(-1, grid, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1).float()


def register_positions(dim: int, count: int) -> Tensor:
    """Initial register positions on a square grid; trained afterwards, so only a starting point."""
    grid = math.isqrt(count)
    return sincos_2d(dim, grid) if grid * grid == count else torch.randn(count, dim) * 0.02
