"""Every form of attention mask that we know, as functions, and one module of them all: one trace serves every test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS, KEYS, HEADS, WIDTH = 5, 6, 2, 8
INF = -math.inf
MIN = torch.finfo(torch.float32).min
Form = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""q [3, H, L, E], k and v [3, H, S, E], and which keys a row may see, [3, L, S]."""


def mask_inputs() -> dict[str, Tensor]:
    """The second sample has a row that sees nothing, the third no other."""
    shapes = {"q": (3, HEADS, ROWS, WIDTH), "k": (3, HEADS, KEYS, WIDTH), "v": (3, HEADS, KEYS, WIDTH)}
    draw = torch.Generator().manual_seed(1)
    values = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    mask = torch.rand(3, ROWS, KEYS, generator=draw) > 0.4
    mask[..., 0] = True
    mask[1, 2], mask[2] = False, False
    return {**values, "m": mask}


class AllForms(nn.Module):
    """An output for each form, by name."""

    def __init__(self, forms: Mapping[str, Form]) -> None:
        super().__init__()
        self.forms = dict(forms)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> dict[str, Tensor]:
        return {name: form(q, k, v, m) for name, form in self.forms.items()}


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **other: Any) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **other)


def _float(mask: Tensor, value: float) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, value)[:, None]


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2) / math.sqrt(WIDTH)


def _filled(q: Tensor, k: Tensor, m: Tensor, value: float) -> Tensor:
    return _scores(q, k).masked_fill(~m[:, None], value)


def _written_out(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    scores = _filled(q, k, m, MIN)
    weights = (scores - scores.amax(-1, keepdim=True)).exp() * m[:, None]
    return weights / (weights.sum(-1, keepdim=True) + 1e-6) @ v


def _shifted_windows(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    """As Swin: the mask is added between two views of the scores."""
    windows = _scores(q, k).view(-1, 1, HEADS, ROWS, KEYS) + _float(m, -100.0)[:, :, None]
    return windows.view(-1, HEADS, ROWS, KEYS).softmax(-1) @ v


def _window(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    far = torch.arange(ROWS)[:, None] - torch.arange(KEYS)
    return _scores(q, k).masked_fill((far < 0) | (far > 2), INF).softmax(-1) @ v


def _alibi(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    far = (torch.arange(ROWS)[:, None] - torch.arange(KEYS)).abs()
    bias = -far * torch.tensor([0.5, 0.25])[:, None, None]
    return (_scores(q, k) + bias + _float(m, -1e9)).softmax(-1) @ v


def _sink(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    sink = torch.zeros(HEADS, ROWS, 1).expand(q.shape[0], -1, -1, -1)
    return torch.cat([_filled(q, k, m, INF), sink], -1).softmax(-1)[..., :-1] @ v


def _takes_two_masks() -> bool:
    """Whether this torch takes a mask beside `is_causal`: 2.13 does, 2.14 refuses it."""
    one = torch.ones(1, 1, 1, WIDTH)
    try:
        _sdpa(one, one, one, torch.ones(1, 1, dtype=torch.bool), is_causal=True)
    except RuntimeError:
        return False
    return True


SDPA: dict[str, Form] = {
    "boolean": lambda q, k, v, m: _sdpa(q, k, v, m[:, None]),
    "of_keys": lambda q, k, v, m: _sdpa(q, k, v, m[:, None, :1]),
    "inf": lambda q, k, v, m: _sdpa(q, k, v, _float(m, INF)),
    "where": lambda q, k, v, m: _sdpa(q, k, v, torch.where(m, 0.0, INF)[:, None]),
    "finfo": lambda q, k, v, m: _sdpa(q, k, v, _float(m, MIN)),
    "finfo_twice": lambda q, k, v, m: _sdpa(q, k, v, 2 * _float(m, MIN)),
    "minus_1e4": lambda q, k, v, m: _sdpa(q, k, v, (1 - m.float())[:, None] * -1e4),
    "beyond_half": lambda q, k, v, m: _sdpa(q, k, v, (1 - m.float())[:, None] * -65504.0 * 2),
    "plus_inf": lambda q, k, v, m: _sdpa(q, k, v, _float(m, math.inf)),
    "nan": lambda q, k, v, m: _sdpa(q, k, v, _float(m, math.nan)),
    "constant": lambda q, k, v, m: _sdpa(q, k, v, torch.ones(ROWS, KEYS, dtype=torch.bool).tril(-1)),
    "constant_open": lambda q, k, v, m: _sdpa(q, k, v, torch.ones(ROWS, KEYS, dtype=torch.bool).tril()),
    "causal": lambda q, k, v, m: _sdpa(q, k, v, None, is_causal=True),
    "causal_long": lambda q, k, v, m: _sdpa(k, q, q, None, is_causal=True),
    "scaled": lambda q, k, v, m: _sdpa(q, k, v, m[:, None], scale=0.7),
    "grouped": lambda q, k, v, m: _sdpa(torch.cat([q, q], 1), k, v, m[:, None], enable_gqa=True),
    "grouped_open": lambda q, k, v, m: _sdpa(torch.cat([q, q], 1), k, v, None, enable_gqa=True),
    "three_axes": lambda q, k, v, m: _sdpa(q[:, 0], k[:, 0], v[:, 0], m),
    "three_axes_open": lambda q, k, v, m: _sdpa(q[:, 0], k[:, 0], v[:, 0], None),
    "five_axes": lambda q, k, v, m: _sdpa(q[:, None], k[:, None], v[:, None], m[:, None, None]),
    "nan_queries": lambda q, k, v, m: _sdpa(q.masked_fill(~m[:, None, :, 3:4], math.nan), k, v, m[:, None]),
    "infinite_values": lambda q, k, v, m: _sdpa(q, k, v.masked_fill(v > 1.5, math.inf), m[:, None]),
}
SOFTMAX: dict[str, Form] = {
    "fill_inf": lambda q, k, v, m: _filled(q, k, m, INF).softmax(-1) @ v,
    "fill_inf_or_0": lambda q, k, v, m: (
        _filled(q, k, m, INF).softmax(-1).masked_fill(~m.any(-1)[:, None, :, None], 0) @ v
    ),
    "fill_finfo": lambda q, k, v, m: _filled(q, k, m, MIN).softmax(-1) @ v,
    "fill_1e9": lambda q, k, v, m: _filled(q, k, m, -1e9).softmax(-1) @ v,
    "add_1e9": lambda q, k, v, m: (_scores(q, k) + (~m)[:, None] * -1e9).softmax(-1) @ v,
    "add_1e4": lambda q, k, v, m: (_scores(q, k) + (1 - m.float())[:, None] * -10000.0).softmax(-1) @ v,
    "add_finfo": lambda q, k, v, m: (_scores(q, k) + (1 - m.float())[:, None] * MIN).softmax(-1) @ v,
    "add_log": lambda q, k, v, m: (_scores(q, k) + m.float().log()[:, None]).softmax(-1) @ v,
    "add_triu": lambda q, k, v, m: (_scores(q, k) + torch.full((ROWS, KEYS), INF).triu(1)).softmax(-1) @ v,
    "where_inf": lambda q, k, v, m: torch.where(m[:, None], _scores(q, k), INF).softmax(-1) @ v,
    "log_softmax": lambda q, k, v, m: _filled(q, k, m, INF).log_softmax(-1),
    "written_out": _written_out,
    "shifted_windows": _shifted_windows,
    "window": _window,
    "alibi": _alibi,
    "sink": _sink,
}
BOOLEANS: dict[str, Form] = {
    "where": lambda q, k, v, m: _sdpa(q, k, v, torch.where(m[:, :1], m, ~m)[:, None]),
    "where_constant": lambda q, k, v, m: v[:, 0] * torch.where(m[:, 0, :, None], torch.arange(8) > 3, True),
    "masked_fill": lambda q, k, v, m: _sdpa(q, k, v, m.masked_fill(~m[:, :1], False)[:, None]),
    "logic": lambda q, k, v, m: q * ((m & m.roll(1, 2)) ^ (m | ~m.roll(2, 2)))[:, None, :, :1],
    "any_all": lambda q, k, v, m: q * m.any(-1)[:, None, :, None] + m.all(-1, keepdim=True)[:, None],
    "count": lambda q, k, v, m: q * m.sum(-1)[:, None, :, None] / m.sum(-1).clamp(min=1)[:, None, :, None],
    "positions": lambda q, k, v, m: v * (m[:, 0].cumsum(-1) - 1).clamp(min=0)[:, None, :, None],
    "mean_pool": lambda q, k, v, m: (v * m[:, None, 0, :, None]).sum(2) / m[:, None, :1].sum(-1),
    "max_pool": lambda q, k, v, m: v.masked_fill(~m[:, None, 0, :, None], INF).amax(2),
    "same_document": lambda q, k, v, m: _sdpa(k, k, v, (m[:, 0, :, None] == m[:, 0, None])[:, None]),
    "tril": lambda q, k, v, m: _sdpa(q, k, v, m.tril()[:, None]),
    "product": lambda q, k, v, m: _sdpa(k, k, v, (m[:, 0, :, None] * m[:, 0, None])[:, None]),
    "concatenated": lambda q, k, v, m: _sdpa(q, k, v, torch.cat([~m[:, :, :1], m[:, :, 1:]], -1)[:, None]),
    "or_nan": lambda q, k, v, m: torch.where(m[:, None, :, :1], q, math.nan),
    "last": lambda q, k, v, m: v[:, 0].masked_fill(~m[:, 0, :, None], INF).argmax(1),
}
if _takes_two_masks():
    SDPA["causal_boolean"] = lambda q, k, v, m: _sdpa(q, k, v, m[:, None], is_causal=True)
    SDPA["causal_inf"] = lambda q, k, v, m: _sdpa(q, k, v, _float(m, INF), is_causal=True)
FORMS: dict[str, Form] = {
    f"{kind}/{name}": form
    for kind, forms in (("sdpa", SDPA), ("softmax", SOFTMAX), ("boolean", BOOLEANS))
    for name, form in forms.items()
}
