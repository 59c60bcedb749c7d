"""What works element by element: activations, gates, conditions, small and large constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.generated.grammar import CLASSES, DIM, EPS, Block, Extras, block, present

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "mish": F.mish,
    "relu_squared": lambda x: F.relu(x).square(),
    "softplus": lambda x: F.softplus(x, beta=2.0),
    "elu": F.elu,
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "hardswish": F.hardswish,
    "erf": torch.erf,
    "softcap": lambda x: 5.0 * torch.tanh(x / 5.0),
    "where": lambda x: torch.where(x > 0, x, torch.expm1(x)),
    "log_sigmoid": F.logsigmoid,
    "log1p": lambda x: torch.sign(x) * torch.log1p(x.abs()),
    "gauss": lambda x: torch.exp(-x * x),
}


@block("mlp")
class Mlp(Block):
    CHOICES: ClassVar = {"activation": tuple(ACTIVATIONS), "bias": (True, False)}

    def __init__(self, activation: str, bias: bool) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up, self.down = nn.Linear(DIM, 2 * DIM, bias=bias), nn.Linear(2 * DIM, DIM, bias=bias)

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        return self.down(self.activation(self.up(x)))


@block("gated_mlp")
class GatedMlp(Block):
    """SwiGLU and its like: one half gates the other."""

    CHOICES: ClassVar = {
        "gate": ("silu", "gelu", "sigmoid", "glu", "tanh"),
        "split": ("chunk", "split", "slice", "two"),
    }

    def __init__(self, gate: str, split: str) -> None:
        super().__init__()
        self.gate, self.how = gate, split
        self.up, self.down, self.other = nn.Linear(DIM, 2 * DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        both = self.up(x)
        if self.gate == "glu":
            return self.down(F.glu(both, dim=-1))
        if self.how == "chunk":
            a, b = both.chunk(2, -1)
        elif self.how == "split":
            a, b = both.split([DIM, DIM], dim=-1)
        else:
            a, b = both[..., :DIM], self.other(x) if self.how == "two" else both[..., DIM:]
        gates = {"silu": F.silu, "gelu": F.gelu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
        return self.down(a * gates[self.gate](b))


@block("modulation")
class Modulation(Block):
    """AdaLN: shift, scale and gate of a condition; `zero` starts with all of them zero, as DiT does."""

    CHOICES: ClassVar = {"parts": (2, 3, 6), "zero": (False, True), "eps": EPS}
    NEEDS: ClassVar = ("c",)

    def __init__(self, parts: int, zero: bool, eps: float) -> None:
        super().__init__()
        self.parts, self.linear = parts, nn.Linear(DIM, parts * DIM)
        self.norm, self.inner = nn.LayerNorm(DIM, eps=eps, elementwise_affine=False), nn.Linear(DIM, DIM)
        if zero:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        made = self.linear(F.silu(present(extras.c))).chunk(self.parts, dim=1)
        x = self._modulate(x, made[0], made[1], made[2] if self.parts > 2 else None)
        return self._modulate(x, made[3], made[4], made[5]) if self.parts == 6 else x

    def _modulate(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor | None) -> Tensor:
        moved = self.inner(self.norm(x) * (1 + scale.unsqueeze(1)) + shift[:, None])
        return x + moved * gate.unsqueeze(1) if gate is not None else x + moved


@block("time")
class Time(Block):
    """Sinusoids of a time in [0, 1000]; `unit` divides by 1000 first and multiplies by it inside, as flow models do."""

    CHOICES: ClassVar = {"order": ("cos", "sin"), "unit": (False, True), "form": ("exp", "power", "buffer", "einsum")}
    NEEDS: ClassVar = ("t",)

    def __init__(self, order: str, unit: bool, form: str) -> None:
        super().__init__()
        self.order, self.unit, self.form = order, unit, form
        self.mlp = nn.Sequential(nn.Linear(DIM, DIM), nn.SiLU(), nn.Linear(DIM, DIM))
        self.register_buffer("table", torch.exp(-math.log(10000) * torch.arange(DIM // 2) / (DIM // 2)))

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        t = present(extras.t)
        t = (t / 1000.0) * 1000.0 if self.unit else t
        angles = torch.einsum("b,d->bd", t, self.table) if self.form == "einsum" else t[:, None].float() * self._table()
        parts = [angles.cos(), angles.sin()] if self.order == "cos" else [angles.sin(), angles.cos()]
        return x + self.mlp(torch.cat(parts, dim=-1))[:, None]

    def _table(self) -> Tensor:
        steps = torch.arange(DIM // 2, dtype=torch.float32) / (DIM // 2)
        if self.form == "power":
            return 1.0 / (10000.0**steps)
        return torch.exp(-math.log(10000) * steps) if self.form == "exp" else self.table


@block("labels")
class Labels(Block):
    """An embedding of integer labels, and what people do to the integers before."""

    CHOICES: ClassVar = {"form": ("plain", "next", "half", "one_hot", "null", "gather", "same")}
    NEEDS: ClassVar = ("y",)

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.table = form, nn.Embedding(CLASSES + 1, DIM)

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        return x + self._embedded(present(extras.y)).unsqueeze(1)

    def _embedded(self, y: Tensor) -> Tensor:
        if self.form == "one_hot":
            return F.one_hot(y, CLASSES + 1).float() @ self.table.weight
        if self.form == "gather":
            return torch.gather(self.table.weight, 0, y[:, None].expand(-1, DIM))
        if self.form == "same":  # a soft match with every row
            return (y[:, None] == torch.arange(CLASSES + 1)).to(torch.float32) @ self.table.weight
        if self.form == "null":
            y = torch.where((y > 6) | (y == 0), torch.full_like(y, CLASSES), y)
        elif self.form != "plain":
            y = (y + 1) % CLASSES if self.form == "next" else y // 2
        return self.table(y)


CONSTANTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "nearly_one": lambda x, eps: x * (1 + 1e-6) * (1 - 1e-6),
    "tiny_step": lambda x, eps: (x + 1e-9) * 2,
    "down_and_up": lambda x, eps: (x * 1e-6) * 1e6,
    "down_and_up_twice": lambda x, eps: (x * 1e-5).square() * 1e10,
    "large_and_back": lambda x, eps: (x * 1e6) / 1e6,
    "log": lambda x, eps: torch.log(x.abs() + eps) * 0.1,
    "log_clamped": lambda x, eps: x.abs().clamp(min=eps).log() * 0.1,
    "root": lambda x, eps: torch.sqrt(F.relu(x) + eps),
    "reciprocal": lambda x, eps: x / (x * x + eps).sqrt(),
    "guarded": lambda x, eps: torch.where(x.abs() > eps, x / (x.abs() + eps), 0.0),
    "power": lambda x, eps: (x.abs() + eps) ** 0.25,
    "softmax_log": lambda x, eps: torch.log(x.softmax(-1) + eps) * 0.1,
    "entropy": lambda x, eps: x * -(x.softmax(-1) * (x.softmax(-1) + eps).log()).sum(-1, keepdim=True),
    "clamp": lambda x, eps: x.clamp(-2.5, 2.5),
    "clamp_min": lambda x, eps: torch.clamp_min(x, eps),
    "nan_to_num": lambda x, eps: torch.nan_to_num(x / x.abs().sum(-1, keepdim=True)),
    "log_sum": lambda x, eps: x - torch.logsumexp(x, dim=-1, keepdim=True),
    "weighted": lambda x, eps: x / x.abs().mean((1, 2), keepdim=True).clamp(min=eps),
}


@block("constants")
class Constants(Block):
    """A constant at the edge of a type, where dropping or rounding it shows."""

    CHOICES: ClassVar = {"form": tuple(CONSTANTS), "eps": EPS, "masked": (False, True)}

    @classmethod
    def needs(cls, choice: Any) -> tuple[str, ...]:
        return ("weight",) if choice["masked"] else ()

    def __init__(self, form: str, eps: float, masked: bool) -> None:
        super().__init__()
        self.made, self.eps, self.masked = CONSTANTS[form], eps, masked

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        return self.made(x * present(extras.weight)[..., None] if self.masked else x, self.eps)


@block("layer_scale")
class LayerScale(Block):
    """A learnt scale that starts near nothing; `chained` undoes it, so that it must be kept."""

    CHOICES: ClassVar = {"start": (1e-8, 1e-6, 1e-4, 1.0), "chained": (False, True)}

    def __init__(self, start: float, chained: bool) -> None:
        super().__init__()
        self.gamma, self.chained = nn.Parameter(torch.full((DIM,), start)), chained
        self.linear, self.back = nn.Linear(DIM, DIM), 1.0 / start

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        small = self.linear(x) * self.gamma
        return small * self.back if self.chained else x + small


@block("gate")
class Gate(Block):
    """A gate of the tokens' mean, or a learnt one that may be off."""

    CHOICES: ClassVar = {"form": ("sigmoid", "tanh", "learnt", "softmax", "off")}

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.linear = form, nn.Linear(DIM, DIM)
        self.alpha = nn.Parameter(torch.tensor(0.0 if form == "off" else 0.7))

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        made = self.linear(x)
        if self.form in ("learnt", "off"):
            return x + torch.tanh(self.alpha) * made
        mean = made.mean(dim=1, keepdim=True)
        gates = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "softmax": lambda m: DIM * F.softmax(m, dim=-1)}
        return x * gates[self.form](mean)
