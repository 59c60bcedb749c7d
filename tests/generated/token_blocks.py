"""What moves, joins, drops and pools tokens, and counts them by masks and integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.generated.grammar import DIM, EPS, TOKENS, Block, Extras, block, present

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "roll": lambda x: torch.roll(x, 2, dims=1),
    "roll_grid": lambda x: torch.roll(x.view(-1, 2, 3, DIM), (1, 1), dims=(1, 2)).reshape(x.shape),
    "flip": lambda x: x.flip(1),
    "pad": lambda x: F.pad(x, (0, 0, 1, 0))[:, :-1],
    "pad_replicate": lambda x: F.pad(x.mT, (1, 1), mode="replicate").mT[:, 1:-1] * 2 - x,
    "shift": lambda x: torch.cat([x[:, :1], x[:, :-1]], dim=1),
    "stack": lambda x: torch.stack([x, x.flip(-1)], dim=2).mean(2),
    "stack_flat": lambda x: torch.stack(x.unbind(1)[::-1], dim=1),
    "interleave": lambda x: x.view(x.shape[0], 2, 3, DIM).transpose(1, 2).reshape(x.shape[0], TOKENS, DIM),
    "permutation": lambda x: x[:, [3, 0, 5, 1, 2, 4]],
    "index_select": lambda x: x.index_select(1, torch.tensor([5, 4, 3, 2, 1, 0])),
    "gather": lambda x: x.gather(1, torch.arange(TOKENS - 1, -1, -1)[None, :, None].expand_as(x)),
    "patches": lambda x: x.view(-1, 2, 3, 2, 2, 4).permute(0, 5, 1, 3, 2, 4).reshape(-1, 4, 4, 6).reshape(-1, 6, DIM),
    "upsample": lambda x: F.interpolate(x.mT, scale_factor=2, mode="nearest").mT[:, ::2],
    "pool": lambda x: F.avg_pool1d(x.mT, 3, stride=1, padding=1).mT,
    "strided": lambda x: torch.cat([x[:, ::2], x[:, 1::2]], 1),
    "squeeze": lambda x: (x.unsqueeze(1).squeeze(1) + x[:, None].mean(1)).unsqueeze(-1).squeeze(-1),
    "repeat": lambda x: x.repeat_interleave(2, dim=1).unflatten(1, (TOKENS, 2)).sum(2),
    "cumsum": lambda x: x.cumsum(1) * 0.5,
    "amax": lambda x: x - x.amax(dim=1, keepdim=True),
    "tril": lambda x: torch.ones(TOKENS, TOKENS).tril().div(TOKENS) @ x,
    "sorted": lambda x: x.sort(dim=1).values,
    "narrow": lambda x: torch.cat([x.narrow(1, 2, 4), x.narrow(1, 0, 2)], 1),
    "split_sizes": lambda x: torch.cat(x.split([1, 2, 3], dim=1)[::-1], dim=1),
    "guided": lambda x: (lambda a, b: a + 1.5 * (b - a))(*torch.cat([x, x * 0.5]).chunk(2)),
    "doubled": lambda x: torch.cat([x, -x], dim=0)[: x.shape[0]],
}


@block("move")
class Move(Block):
    """One way to move tokens, between two layers."""

    CHOICES: ClassVar = {"form": tuple(MOVES)}

    def __init__(self, form: str) -> None:
        super().__init__()
        self.move, self.linear = MOVES[form], nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        return self.move(self.linear(x))


@block("registers")
class Registers(Block):
    """Tokens put in front, mixed with the others, and dropped again."""

    CHOICES: ClassVar = {
        "form": ("expand", "repeat", "expand_as", "zeros", "batch_first", "broadcast"),
        "count": (1, 3),
    }

    def __init__(self, form: str, count: int) -> None:
        super().__init__()
        self.form, self.count = form, count
        self.tokens = nn.Parameter(torch.randn(1, count, DIM))
        self.mix = nn.Linear(TOKENS + count, TOKENS + count)

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        joined = torch.cat([self._rows(x), x], dim=1)
        return (joined + self.mix(joined.transpose(1, 2)).transpose(1, 2))[:, self.count :]

    def _rows(self, x: Tensor) -> Tensor:
        if self.form == "expand":
            return self.tokens.expand(x.shape[0], -1, -1)
        if self.form == "repeat":
            return self.tokens.repeat(x.shape[0], 1, 1)
        if self.form == "batch_first":
            return self.tokens.expand(x.size(0), self.count, x.size(2))
        if self.form == "broadcast":
            return torch.broadcast_to(self.tokens, (x.shape[0], self.count, DIM))
        if self.form == "new":
            return torch.zeros((x.shape[0], self.count, DIM), dtype=x.dtype) + self.tokens[0]
        zeros = x.new_zeros(x.shape[0], self.count, DIM)
        return zeros + self.tokens if self.form == "zeros" else self.tokens.expand_as(zeros)


@block("batch")
class Batch(Block):
    """The batch as a number, or taken apart: a graph need not be able to, and then says so. A mean over it depends on
    what else is in it, so that no bundle of it can pass."""

    CHOICES: ClassVar = {"form": ("int", "len", "unbind", "loop", "repeat", "centred", "new_mask", "arange")}

    @classmethod
    def refusal(cls, choice: Any) -> str | None:
        return "batch" if choice["form"] in ("int", "len", "unbind", "loop", "centred") else None

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.linear = form, nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        made, size = self.linear(x), x.shape[0]
        if self.form == "int":
            return made.view(int(size), -1).reshape(int(size), TOKENS, DIM)
        if self.form == "len":
            return made + self.linear.bias.expand(len(x), TOKENS, DIM)
        if self.form == "unbind":
            return torch.stack([row.flip(0) for row in made.unbind(0)])
        if self.form == "loop":
            return torch.cat([made[i : i + 1] * 2 for i in range(size)])
        if self.form == "centred":
            return made - made.mean(0, keepdim=True)
        if self.form == "repeat":
            return made + self.linear.bias.repeat(size, TOKENS, 1)
        if self.form == "new_mask":
            return made.masked_fill(~torch.ones(size, TOKENS, 1, dtype=torch.bool).cumsum(1).lt(5), 0.0)
        return made + (torch.arange(size) * 0)[:, None, None]


@block("masked_pool")
class MaskedPool(Block):
    """A mean over the tokens that count, given back to all; with `eps`, or a count of at least one."""

    CHOICES: ClassVar = {"guard": ("eps", "clamp", "maximum", "where"), "eps": EPS, "mask": ("keep", "weight")}

    @classmethod
    def needs(cls, choice: Any) -> tuple[str, ...]:
        return (choice["mask"],)

    def __init__(self, guard: str, eps: float, mask: str) -> None:
        super().__init__()
        self.guard, self.eps, self.mask, self.linear = guard, eps, mask, nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        m = (present(extras.keep).float() if self.mask == "keep" else present(extras.weight)).unsqueeze(-1)
        total, count = (x * m).sum(1), m.sum(dim=1)
        if self.guard == "eps":
            mean = total / (count + self.eps)
        elif self.guard == "clamp":
            mean = total / count.clamp(min=self.eps)
        elif self.guard == "maximum":
            mean = total / torch.maximum(count, torch.ones_like(count))
        else:
            mean = torch.where(count > 0, total / torch.where(count > 0, count, 1.0), torch.zeros_like(total))
        return x + self.linear(mean)[:, None, :]


@block("masked_tokens")
class MaskedTokens(Block):
    """Tokens that do not count are replaced, and booleans combined on the way."""

    CHOICES: ClassVar = {"form": ("where", "fill", "multiply", "token", "where_bool", "xor", "large", "padded_max")}
    NEEDS: ClassVar = ("keep",)

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.token, self.linear = form, nn.Parameter(torch.randn(DIM)), nn.Linear(DIM, DIM, bias=False)

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        keep = present(extras.keep)
        return self.linear(self._replaced(x, keep, keep[:, :, None]))

    def _replaced(self, x: Tensor, keep: Tensor, wide: Tensor) -> Tensor:
        first = torch.arange(TOKENS) < 2
        if self.form == "where":
            return torch.where(wide, x, 0.0)
        if self.form == "fill":
            return x.masked_fill(~wide, 0.0)
        if self.form == "multiply":
            return x * wide.to(x.dtype)
        if self.form == "token":
            return torch.where(wide, x, self.token)
        if self.form == "where_bool":
            return x * torch.where(first, keep, ~keep).unsqueeze(-1)
        if self.form == "xor":
            return x * ((keep ^ first) | (keep & first)).unsqueeze(-1).float()
        filled = x.masked_fill(~wide, torch.finfo(x.dtype).min if self.form == "large" else -torch.inf)
        best = filled.amax(dim=1, keepdim=True)
        return x + torch.where(keep.any(1)[:, None, None], best, torch.zeros_like(best))


@block("picture")
class Picture(Block):
    """Tokens as a picture of 2 x 3, and back."""

    CHOICES: ClassVar = {"form": ("conv", "depthwise", "shuffle", "pool", "conv1d", "resize")}

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.linear = form, nn.Linear(DIM, DIM)
        self.conv = nn.Conv2d(DIM, DIM, 3, padding=1, groups=DIM if form == "depthwise" else 1)
        self.conv1d = nn.Conv1d(DIM, DIM, 3, padding="same")

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        if self.form == "conv1d":
            return x + self.conv1d(x.transpose(1, 2)).transpose(1, 2)
        grid = self.linear(x).transpose(1, 2).reshape(x.shape[0], DIM, 2, 3)
        return x + self._made(grid).flatten(2).transpose(1, 2)

    def _made(self, grid: Tensor) -> Tensor:
        if self.form == "shuffle":
            return F.pixel_unshuffle(F.pixel_shuffle(grid, 2) * 0.5, 2)
        if self.form == "pool":
            return grid - F.adaptive_avg_pool2d(grid, 1)
        if self.form == "resize":
            return F.interpolate(grid, size=(4, 6), mode="bilinear", align_corners=False)[:, :, ::2, ::2]
        return self.conv(grid)


@block("tied")
class Tied(Block):
    """One module called twice, or one weight in two places."""

    CHOICES: ClassVar = {"form": ("twice", "weight", "parameter", "transposed")}

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.linear, self.norm, self.second = (
            form,
            nn.Linear(DIM, DIM),
            nn.LayerNorm(DIM),
            nn.Linear(DIM, DIM),
        )
        if form == "parameter":
            self.second.weight = self.linear.weight

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        if self.form == "twice":
            return self.linear(self.norm(F.gelu(self.linear(self.norm(x)))))
        if self.form == "parameter":
            return self.second(F.silu(self.linear(x)))
        weight = self.linear.weight.T if self.form == "transposed" else self.linear.weight
        return F.linear(F.silu(self.linear(x)), weight)
