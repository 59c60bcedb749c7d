"""One module whose outputs each hang on a constant that is easily lost: an epsilon, a gain near one, a huge mask."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, TOKENS = 8, 6
Form = Callable[[Tensor], Tensor]


def _rms(eps: float) -> Form:
    return lambda y: y * torch.rsqrt((y * y).mean(-1, keepdim=True) + eps)


def _standardised(y: Tensor, eps: float) -> Tensor:
    return (y - y.mean(-1, keepdim=True)) / (y.std(-1, keepdim=True) + eps)


def _linear_attention(y: Tensor) -> Tensor:
    q = y.relu()
    return (q @ (q.mT @ y)) / (q @ q.sum(1, keepdim=True).mT + 1e-15)


def _guarded(y: Tensor) -> Tensor:
    norm = y.norm(dim=-1, keepdim=True)
    return y / torch.where(norm > 1e-9, norm, torch.tensor(1e-9))


EPSILONS: dict[str, Form] = {
    **{f"rms_{eps}": _rms(eps) for eps in (1e-4, 1e-6, 1e-8, 1e-12, 1e-15)},
    "rms_node": lambda y: F.rms_norm(y, (WIDTH,), eps=1e-12),
    "rms_default": lambda y: F.rms_norm(y, (WIDTH,)),
    "layer_norm": lambda y: F.layer_norm(y, (WIDTH,), eps=1e-12),
    "group_norm": lambda y: F.group_norm(y.mT.contiguous(), 2, eps=1e-10).mT,
    "instance_norm": lambda y: F.instance_norm(y.mT.contiguous(), eps=1e-10).mT,
    "normalize": lambda y: F.normalize(y, dim=-1),
    "normalize_p1": lambda y: F.normalize(y, dim=-1, p=1.0),
    "normalize_p3": lambda y: F.normalize(y, dim=-1, p=3.0),
    "cosine": lambda y: F.cosine_similarity(y, y.roll(1, -1) * 2, dim=-1),
    "standardised": lambda y: _standardised(y, 1e-9),
    "variance": lambda y: (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True) + 1e-10).sqrt(),
    "share": lambda y: y.relu() / (y.relu().sum(-1, keepdim=True) + 1e-9),
    "reciprocal": lambda y: y * (1 / (y.abs().amax(-1, keepdim=True) + 1e-7)),
    "negative_power": lambda y: y * ((y * y).mean(-1, keepdim=True) + 1e-12) ** -0.5,
    "logarithm": lambda y: torch.log(y.relu() + 1e-9),
    "clamped_logarithm": lambda y: torch.log(y.relu().clamp(min=1e-8, max=1.0)),
    "guarded": _guarded,
    "linear_attention": _linear_attention,
    "logits": lambda y: F.normalize(y, dim=-1, eps=1e-12) * torch.tensor(4.6).exp(),
}
OTHERS: dict[str, Form] = {
    "added": lambda y: (y * 0 + 1e-9) * 1e9,
    "taken": lambda y: (y * 0 - 1e-9) * 1e9,
    "down_and_up": lambda y: (y * 1e-10) * 1e10,
    "up_and_down": lambda y: (y * 1e9) / 1e9,
    "layer_scale": lambda y: y * torch.linspace(1e-6, 1e-5, WIDTH) * 1e6,
    "mixed_scale": lambda y: (y * torch.logspace(-9, 0, WIDTH)) / torch.logspace(-9, 0, WIDTH),
    "clamps": lambda y: y.clamp(0, 1).clamp(2, 3),
    "clamped_relu": lambda y: y.clamp(-3, -1).relu(),
    "tiny_clamps": lambda y: y.clamp(max=1e-8).clamp(min=1e-9) * 1e8,
    "large_mask": lambda y: torch.softmax(y - 1e9 * (y < 0).float(), -1),
    "lowest": lambda y: torch.softmax(torch.where(y > 5, y, torch.finfo(torch.float32).min), -1),
}
BEYOND_HALF: dict[str, Form] = {  # differences of 1e-6 exist in FP32 only
    "gain": lambda y: (y * 1.000001 - y) * 1e6,
    "quotient": lambda y: (y / 1.00001 - y) * 1e5,
}


class Timed(nn.Module):
    """x [batch, width] and sinusoids of t [batch], at Gaussian frequencies too, and of positions [batch, 2]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frequencies = nn.Parameter(torch.randn(16) * 16)
        self.a = nn.Linear(WIDTH + 96, WIDTH)

    def forward(self, x: Tensor, t: Tensor, position: Tensor) -> Tensor:
        scales = torch.exp(-math.log(10000) * torch.arange(16) / 16)
        grid = torch.stack([scales * 3, scales * 7])  # [2, 16]
        angles = [1000 * t[:, None] * scales, t[:, None] * self.frequencies * (2 * math.pi), position.float() @ grid]
        return self.a(torch.cat([x, *(each for angle in angles for each in (angle.cos(), angle.sin()))], dim=-1))


class Forms(nn.Module):
    """x [batch, tokens, width], m [batch, tokens] -> each of `forms` of `a(x * m)`, by name."""

    def __init__(self, forms: dict[str, Form]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.forms, self.a = forms, nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, m: Tensor) -> dict[str, Tensor]:
        y = self.a(x * m[:, :, None])
        return {name: form(y) for name, form in self.forms.items()}


def inputs(padding: float) -> dict[str, Tensor]:
    """Two rows; `padding` is the mask of the second one's last tokens."""
    draw = torch.Generator().manual_seed(1)
    m = torch.rand(2, TOKENS, generator=draw) / 2 + 0.5
    m[1, 3:] = padding
    return {"x": torch.randn(2, TOKENS, WIDTH, generator=draw), "m": m}
