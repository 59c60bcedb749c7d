"""What knows the place of a token: rotary tables, counts of tokens, biases of distance, constant masks."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.generated.attention_blocks import HEAD, Heads
from tests.generated.grammar import DIM, HEADS, TOKENS, Block, Extras, block, present


@block("rope")
class Rope(Heads):
    """Rotary positions from a table: real, of halves or of pairs, or complex."""

    CHOICES: ClassVar = {"table": ("halves", "pairs", "polar", "complex", "split"), "scaled": (1.0, 100.0)}

    def __init__(self, table: str, scaled: float) -> None:
        super().__init__()
        self.table = table
        angles = torch.arange(TOKENS)[:, None] * scaled / 10000 ** (torch.arange(HEAD // 2) / (HEAD // 2))
        self.register_buffer("angles", angles.float(), persistent=False)
        if table in ("complex", "split"):
            both = torch.polar(torch.ones_like(angles), angles)
            self.register_buffer("turns", torch.cat([both, both]) if table == "split" else both, persistent=False)

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        q, k, v = self.split(x)
        return self.join(F.scaled_dot_product_attention(self._turned(q), self._turned(k), v))

    def _turned(self, q: Tensor) -> Tensor:
        if self.table == "halves":
            cos, sin = self.angles.cos().repeat(1, 2), self.angles.sin().repeat(1, 2)
            a, b = q.chunk(2, dim=-1)
            return q * cos + torch.cat([-b, a], dim=-1) * sin
        if self.table == "pairs":
            a, b = q.unflatten(-1, (-1, 2)).unbind(-1)
            cos, sin = self.angles.cos(), self.angles.sin()
            return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
        turns = torch.polar(torch.ones_like(self.angles), self.angles) if self.table == "polar" else self.turns
        turns = turns.split(TOKENS)[0] if self.table == "split" else turns
        pairs = torch.view_as_complex(q.float().reshape(*q.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns).flatten(3).type_as(q)


@block("positions")
class Positions(Block):
    """Places counted among the tokens that count, looked up in a table."""

    CHOICES: ClassVar = {"form": ("cumsum", "padded", "arange", "index", "sinusoid")}
    NEEDS: ClassVar = ("keep",)

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.table = form, nn.Embedding(TOKENS + 2, DIM, padding_idx=1)

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        keep = present(extras.keep)
        places = keep.long().cumsum(dim=1)
        if self.form == "padded":
            places = places * keep + 1
        elif self.form == "arange":
            places = torch.arange(TOKENS)[None] + (~keep).sum(1, keepdim=True).clamp(max=1)
        if self.form == "sinusoid":
            return x + (places[..., None] * (torch.arange(DIM) + 1) * 0.3).sin()
        return x + (self.table.weight[places] if self.form == "index" else self.table(places))


@block("relative_bias")
class RelativeBias(Block):
    """A table of differences of places, added to what mixes the tokens."""

    CHOICES: ClassVar = {"form": ("gather", "alibi", "bucket")}

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.table = form, nn.Parameter(torch.randn(2 * TOKENS - 1, HEADS) * 0.5)
        self.v, self.out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        steps = torch.arange(TOKENS)
        self.register_buffer("index", steps[:, None] - steps[None] + TOKENS - 1)

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        v = self.v(x).view(x.shape[0], TOKENS, HEADS, -1).transpose(1, 2)
        return self.out((self._bias().softmax(-1) @ v).transpose(1, 2).flatten(2))

    def _bias(self) -> Tensor:
        if self.form == "gather":
            return self.table[self.index.view(-1)].view(TOKENS, TOKENS, HEADS).permute(2, 0, 1).contiguous()
        away = (self.index - (TOKENS - 1)).abs()
        if self.form == "alibi":
            return -away * torch.tensor([0.5, 0.25])[:, None, None]
        return F.embedding((away.float() + 1).log2().floor().long(), self.table).permute(2, 0, 1)


@block("constant_places")
class ConstantPlaces(Block):
    """Places that a constant mask names: a NonZero of a constant, and weights changed before they are used."""

    CHOICES: ClassVar = {"form": ("nonzero", "boolean", "dropped", "where", "assigned")}

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.table = form, nn.Parameter(torch.randn(TOKENS, DIM))
        self.register_buffer("chosen", torch.tensor([True, False, True, True, False, False]))

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        chosen = self.chosen
        if self.form == "nonzero":
            return x + x[:, torch.nonzero(chosen)[:, 0]].mean(1, keepdim=True)
        if self.form == "boolean":
            return x + x[:, chosen].mean(1, keepdim=True)
        if self.form == "where":
            return x + x[:, torch.where(chosen)[0]].mean(1, keepdim=True)
        table = self.table.clone()
        if self.form == "dropped":
            table[chosen] *= 0
        else:
            table[1:3] = 0.5
        return x + table
