"""What enters a conditional denoiser's blocks and how an image leaves them: patches, times, labels, positions.

Modules have the names of released checkpoints.
Shapes: N batch, T patches, R registers, D hidden size, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MAX_PERIOD = 1e4


class PatchEmbed(nn.Module):
    def __init__(self, patch_size: int, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, T, D]
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class LabelEmbedder(nn.Module):
    """y [N] -> [N, D]. With label dropout the table has one more row: the null label, `num_classes`."""

    def __init__(self, num_classes: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + (dropout > 0), dim)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)  # type: ignore[no-any-return]


class GaussianFourierEmbedding(nn.Module):
    """t [N] -> [N, D] by random Fourier features; `W` is loaded, never regenerated (it is part of the weights)."""

    def __init__(self, dim: int, features: int = 256) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(features), requires_grad=False)
        self.mlp = nn.Sequential(nn.Linear(2 * features, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.W[None] * 2 * math.pi
        return self.mlp(torch.cat([angle.sin(), angle.cos()], dim=-1))  # type: ignore[no-any-return]


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


def unpatchify(tokens: Tensor, patch: int) -> Tensor:
    """[N, T, patch * patch * C] -> [N, C, H, W]; inside a token the order is row, column, channel."""
    grid = math.isqrt(tokens.shape[1])
    h = tokens.unflatten(-1, (patch, patch, -1)).unflatten(1, (grid, grid))  # type: ignore[no-untyped-call]
    return h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # type: ignore[no-any-return]
