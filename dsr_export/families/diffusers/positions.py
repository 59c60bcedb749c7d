"""Position tables of diffusers transformers as float32 constants: computed once in float64, never in the graph.

Sources: FLUX.1's rotary embedding over (text, row, column) ids, and the sin-cos table of DiT, PixArt and SD3
(arXiv 2212.09748, 2310.00426, 2403.03206).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

THETA = 1e4


class RotaryTable(nn.Module):
    """Takes the place of a rotary embedding: returns the tables it holds, whatever ids it is asked for."""

    cos: Tensor
    sin: Tensor

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        super().__init__()
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.cos, self.sin


def flux_ids(rows: int, columns: int, text_tokens: int) -> Tensor:
    """Ids [text_tokens + rows * columns, 3]: zeros for text, (0, row, column) for each pair of latent pixels."""
    grid = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
    return torch.cat([torch.zeros(text_tokens, 3), grid.float()])


def rotary_tables(ids: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cosines and sines [tokens, sum(axes)] float32 of ids [tokens, len(axes)], each angle twice in a row."""
    angles = [_angles(ids[:, axis].double(), dim) for axis, dim in enumerate(axes)]
    table = torch.cat(angles, dim=-1).repeat_interleave(2, dim=-1)
    return table.cos().float(), table.sin().float()


def with_identity_rows(table: RotaryTable, at: int, count: int) -> RotaryTable:
    """`table` with `count` unrotated rows (cos 1, sin 0) put in before row `at`: those of registers."""
    width = table.cos.shape[1]
    cos, sin = (
        torch.cat([values[:at], torch.full((count, width), fill), values[at:]])
        for values, fill in ((table.cos, 1.0), (table.sin, 0.0))
    )
    return RotaryTable(cos, sin)


def sincos_table(dim: int, rows: int, columns: int, *, base: int, scale: float) -> Tensor:
    """Fixed sin-cos table [1, rows * columns, dim] float32; the first half encodes the column.

    Coordinates are stretched so that `base` patches span a length of `base / scale`, as PixArt does for larger images.
    """
    across = _stretched(columns, base, scale).repeat(rows)
    down = _stretched(rows, base, scale).repeat_interleave(columns)
    halves = [_angles(place, dim // 2) for place in (across, down)]
    return torch.cat([torch.cat([half.sin(), half.cos()], dim=-1) for half in halves], dim=-1).float()[None]


def _stretched(count: int, base: int, scale: float) -> Tensor:
    return (torch.arange(count).float() / (count / base) / scale).double()  # rounded to float32 first, as released


def _angles(places: Tensor, dim: int) -> Tensor:
    """Places [tokens] times dim / 2 falling frequencies, [tokens, dim / 2] float64."""
    bands = THETA ** -(torch.arange(0, dim, 2).double() / dim)
    return places[:, None] * bands
