"""Transformer layers of the conditional denoisers, by the names they have in released checkpoints.

Shapes: N batch, T patches, R registers, D hidden size, C channels.
"""

from __future__ import annotations

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
