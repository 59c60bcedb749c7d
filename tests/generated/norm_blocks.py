"""Normalisations: modules, functions, and spelt out in every way people spell them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.generated.grammar import DIM, EPS, TOKENS, Block, Extras, block, present

Norm = Callable[[Tensor, float], Tensor]

RMS: dict[str, Norm] = {
    "rsqrt": lambda x, eps: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps),
    "square": lambda x, eps: x * (x * x).mean(dim=-1, keepdim=True).add(eps).rsqrt(),
    "sqrt": lambda x, eps: x / torch.sqrt(torch.mean(x**2, dim=-1, keepdim=True) + eps),
    "pow": lambda x, eps: x * (x.square().mean(-1, keepdim=True) + eps) ** -0.5,
    "norm": lambda x, eps: x / (x.norm(2, dim=-1, keepdim=True) * DIM**-0.5 + eps),
    "vector_norm": lambda x, eps: x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + eps),
    "l1": lambda x, eps: x / (x.abs().sum(-1, keepdim=True) + eps),
    "largest": lambda x, eps: x / (x.abs().amax(-1, keepdim=True) + eps),
    "clamp": lambda x, eps: x / x.norm(dim=-1, keepdim=True).clamp(min=eps),
    "clamp_min": lambda x, eps: x / x.norm(dim=-1, keepdim=True).clamp_min(eps).expand_as(x),
    "maximum": lambda x, eps: x / torch.maximum(x.norm(dim=-1, keepdim=True), torch.tensor(eps)),
    "normalize": lambda x, eps: F.normalize(x, dim=-1, eps=eps),
    "scaled": lambda x, eps: F.normalize(x, dim=-1, eps=eps) * DIM**0.5,
}
CENTRED: dict[str, Norm] = {
    "var": lambda x, eps: (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + eps),
    "var_mean": lambda x, eps: _centred(x, *torch.var_mean(x, dim=-1, keepdim=True, correction=0), eps),
    "std": lambda x, eps: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, unbiased=False) + eps),
    "squares": lambda x, eps: _centred(x, ((x - x.mean(-1, True)) ** 2).mean(-1, True), x.mean(-1, True), eps),
    "tokens": lambda x, eps: (x - x.mean(1, keepdim=True)) * (x.var(1, keepdim=True) + eps).rsqrt(),
}


def _centred(x: Tensor, variance: Tensor, mean: Tensor, eps: float) -> Tensor:
    return (x - mean) * torch.rsqrt(variance + eps)


@block("rms_norm")
class RmsNorm(Block):
    """Spelt out; `masked` zeroes tokens before, as padding is."""

    CHOICES: ClassVar = {
        "form": tuple(RMS),
        "eps": EPS,
        "gain": ("none", "w", "1+w"),
        "masked": (None, "keep", "weight"),
    }

    @classmethod
    def needs(cls, choice: Any) -> tuple[str, ...]:
        return (choice["masked"],) if choice["masked"] else ()

    def __init__(self, form: str, eps: float, gain: str, masked: str | None) -> None:
        super().__init__()
        self.norm, self.eps, self.gain, self.masked = RMS[form], eps, gain, masked
        self.weight = nn.Parameter(torch.randn(DIM) * 0.2 + (gain == "w"))

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        if self.masked == "keep":
            x = x * present(extras.keep).unsqueeze(-1)
        elif self.masked == "weight":
            x = x * present(extras.weight)[:, :, None]
        x = self.norm(x, self.eps)
        return x if self.gain == "none" else x * (self.weight if self.gain == "w" else 1 + self.weight)


@block("centred_norm")
class CentredNorm(Block):
    """LayerNorm spelt out. Deviations of zero make its gradient infinite, not its value."""

    CHOICES: ClassVar = {"form": tuple(CENTRED), "eps": EPS, "affine": (False, True), "masked": (False, True)}

    @classmethod
    def needs(cls, choice: Any) -> tuple[str, ...]:
        return ("weight",) if choice["masked"] else ()

    def __init__(self, form: str, eps: float, affine: bool, masked: bool) -> None:
        super().__init__()
        self.norm, self.eps, self.masked = CENTRED[form], eps, masked
        self.affine = nn.Linear(DIM, DIM) if affine else None

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        x = self.norm(x * present(extras.weight).unsqueeze(2) if self.masked else x, self.eps)
        return x if self.affine is None else x * self.affine.weight[0] + self.affine.bias


@block("norm_module")
class NormModule(Block):
    """torch's own modules."""

    KINDS: ClassVar[dict[str, Callable[[float], nn.Module]]] = {
        "layer": lambda eps: nn.LayerNorm(DIM, eps=eps),
        "layer_plain": lambda eps: nn.LayerNorm(DIM, eps=eps, elementwise_affine=False),
        "layer_unbiased": lambda eps: nn.LayerNorm(DIM, eps=eps, bias=False),
        "layer_2d": lambda eps: nn.LayerNorm((TOKENS, DIM), eps=eps),
        "rms": lambda eps: nn.RMSNorm(DIM, eps=eps),
        "rms_default": lambda eps: nn.RMSNorm(DIM, eps=None),
        "rms_plain": lambda eps: nn.RMSNorm(DIM, eps=eps, elementwise_affine=False),
    }
    CHOICES: ClassVar = {"kind": tuple(KINDS), "eps": EPS, "masked": (False, True)}

    @classmethod
    def needs(cls, choice: Any) -> tuple[str, ...]:
        return ("keep",) if choice["masked"] else ()

    def __init__(self, kind: str, eps: float, masked: bool) -> None:
        super().__init__()
        self.norm, self.masked = self.KINDS[kind](eps), masked

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        return self.norm(x.masked_fill(~present(extras.keep)[..., None], 0.0) if self.masked else x)


@block("norm_function")
class NormFunction(Block):
    """torch's own functions, without parameters."""

    KINDS: ClassVar[dict[str, Norm]] = {
        "layer_norm": lambda x, eps: F.layer_norm(x, (DIM,), eps=eps),
        "rms_norm": lambda x, eps: F.rms_norm(x, (DIM,), eps=eps),
        "group_norm": lambda x, eps: F.group_norm(x.transpose(1, 2), 2, eps=eps).transpose(1, 2),
        "instance_norm": lambda x, eps: F.instance_norm(x.mT, eps=eps).mT,
        "normalize_tokens": lambda x, eps: F.normalize(x, dim=1, eps=eps),
        "normalize_l1": lambda x, eps: F.normalize(x, p=1.0, dim=-1, eps=eps),
    }
    CHOICES: ClassVar = {"kind": tuple(KINDS), "eps": EPS, "masked": (False, True)}

    @classmethod
    def needs(cls, choice: Any) -> tuple[str, ...]:
        return ("keep",) if choice["masked"] else ()

    def __init__(self, kind: str, eps: float, masked: bool) -> None:
        super().__init__()
        self.norm, self.eps, self.masked = self.KINDS[kind], eps, masked

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        return self.norm(x * present(extras.keep)[..., None].float() if self.masked else x, self.eps)


@block("channel_norm")
class ChannelNorm(Block):
    """Norms over channels of a picture: GroupNorm and BatchNorm with what they learnt."""

    CHOICES: ClassVar = {"kind": ("group", "group_1", "batch"), "eps": EPS}

    def __init__(self, kind: str, eps: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(DIM, eps=eps) if kind == "batch" else nn.GroupNorm(1 if "1" in kind else 2, DIM, eps)
        if isinstance(self.norm, nn.BatchNorm1d):
            self.norm.running_mean, self.norm.running_var = torch.randn(DIM) * 0.3, torch.rand(DIM) + 0.3

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        return self.norm(x.permute(0, 2, 1)).permute(0, 2, 1)


@block("normed_weight")
class NormedWeight(Block):
    """A layer whose weight is normalised when it runs: the same for every input, and folded by an optimiser."""

    CHOICES: ClassVar = {"eps": EPS, "form": ("normalize", "norm", "std"), "zero_row": (False, True)}

    def __init__(self, eps: float, form: str, zero_row: bool) -> None:
        super().__init__()
        self.weight, self.eps, self.form = nn.Parameter(torch.randn(DIM, DIM)), eps, form
        if zero_row:
            self.weight.data[2] = 0.0

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        w = self.weight
        if self.form == "normalize":
            return F.linear(x, F.normalize(w, dim=1, eps=self.eps))
        if self.form == "norm":
            return x @ (w / (w.norm(dim=1, keepdim=True) + self.eps)).T
        return F.linear(x, (w - w.mean(1, keepdim=True)) * (w.var(1, keepdim=True) * DIM + self.eps).rsqrt())
