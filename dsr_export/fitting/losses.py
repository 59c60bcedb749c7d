"""What is made smaller: the model's own training loss, or the distance to the model without registers.

Shapes: B rows, C channels, H x W sides, n tokens, D channels of a token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dsr_export.fitting.data import Inputs, Latents
from dsr_export.register_ops.replacement import outlier_limit
from dsr_export.registers import RecursiveReplacement
from dsr_export.sampling import DIFFUSION_STEPS, FIRST_BETA, LAST_BETA, MIN_TIME, SamplerSpec
from dsr_export.subject import Subject

ALL = slice(None)
DROPPED = 0.1  # of the labels, where the model has one for none


@dataclass(frozen=True, kw_only=True)
class Draw:
    """`rows` of a step, drawn from `generator`. The loss is of those in `part`: others can be computed elsewhere.

    `everywhere` gives the mean of a number over all that compute parts, for losses that are shares of one.
    """

    rows: int
    generator: torch.Generator
    part: slice = field(default_factory=lambda: ALL)
    everywhere: Callable[[Tensor], Tensor] = lambda value: value


class Objective(Protocol):
    """The mean loss of the model over a part of what is drawn."""

    def __call__(self, module: nn.Module, draw: Draw) -> Tensor: ...


@dataclass(frozen=True)
class TrainingLoss:
    """Flow matching, or noise prediction, as the model's sampler says; on the same times as that walks.

    A prediction of data or velocity is compared as the velocity that the sampler makes of it.
    """

    spec: SamplerSpec
    data: Latents

    def __call__(self, module: nn.Module, draw: Draw) -> Tensor:
        rows, generator = draw.rows, draw.generator
        index = torch.randint(len(self.data.values), (rows,), generator=generator)
        clean = torch.from_numpy(self.data.values[index.numpy()])
        labels = self._labels(torch.from_numpy(self.data.labels[index.numpy()]), generator)
        noise = self.spec.noise_scale * torch.randn(clean.shape, generator=generator)
        if self.spec.path == "ddpm":
            time = torch.randint(DIFFUSION_STEPS, (rows,), generator=generator)
            return _noise_loss(module, *beside(module, clean, labels, noise, time, part=draw.part))
        time = drawn_times(self.spec, rows, generator)
        return self._flow_loss(module, *beside(module, clean, labels, noise, time, part=draw.part))

    def _labels(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        if self.spec.null_label is None:
            return labels
        dropped = torch.rand(len(labels), generator=generator) < DROPPED
        return torch.where(dropped, self.spec.null_label, labels)

    def _flow_loss(self, module: nn.Module, clean: Tensor, labels: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """`time` [B] is the model's own: 1, or on the reversed path 0, is noise."""
        share = (1 - time if self.spec.path == "reversed" else time)[:, None, None, None]  # of noise
        made = module((1 - share) * clean + share * noise, time, labels)[:, : clean.shape[1]]
        if self.spec.prediction == "data":
            return _mean_square((made - clean) / share.clamp(min=MIN_TIME))
        velocity = clean - noise if self.spec.path == "reversed" else noise - clean
        return _mean_square(made - velocity)


def drawn_times(spec: SamplerSpec, rows: int, generator: torch.Generator) -> Tensor:
    """Times [B] of a flow: logit-normal, shifted as the sampler's grid is."""
    u = torch.randn(rows, generator=generator).sigmoid()
    shift = math.sqrt(spec.shift_dim / spec.shift_base)
    t = shift * u / (1 + (shift - 1) * u)
    return 1 - t if spec.path == "reversed" else t


def beside(module: nn.Module, *tensors: Tensor, part: slice = ALL) -> tuple[Tensor, ...]:
    """Their rows in `part` on the device of the module's weights: what a step draws does not depend on it."""
    device = next(module.parameters()).device
    return tuple(each[part].to(device) for each in tensors)


def _noise_loss(module: nn.Module, clean: Tensor, labels: Tensor, noise: Tensor, step: Tensor) -> Tensor:
    """Of the noise in the state after a `step` [B] of the released diffusion (arXiv 2212.09748)."""
    powers = np.cumprod(1 - np.linspace(FIRST_BETA, LAST_BETA, DIFFUSION_STEPS))
    kept = torch.from_numpy(powers).to(step.device)[step].float()[:, None, None, None]
    made = module(kept.sqrt() * clean + (1 - kept).sqrt() * noise, step.float(), labels)
    return _mean_square(made[:, : clean.shape[1]] - noise)


@dataclass(frozen=True)
class Distillation:
    """The mean square distance to the outputs of `teacher`, as a share of their own mean square.

    Raises KeyError for a model whose inputs are not those of `data`.
    """

    teacher: Subject
    data: Inputs

    def __call__(self, module: nn.Module, draw: Draw) -> Tensor:
        index = torch.randint(self.data.count, (draw.rows,), generator=draw.generator)[draw.part].numpy()
        rows_of = [torch.from_numpy(np.ascontiguousarray(self.data.values[s.name][index])) for s in self.teacher.inputs]
        given = beside(module, *rows_of)
        with torch.no_grad():
            wanted = _tensors(self.teacher.module(*given))
        pairs = zip(_tensors(module(*given)), wanted, strict=True)
        return torch.stack([(a - b).square().mean() / power(b, draw) for a, b in pairs]).mean()


def power(values: Tensor, draw: Draw) -> Tensor:
    """Mean square of `values` and of those of the other parts: above 0, to divide by."""
    return draw.everywhere(values.square().mean()).clamp(min=1e-12)


def norm_term(seen: Mapping[str, Sequence[Tensor]], sites: Mapping[str, RecursiveReplacement]) -> Tensor:
    """How far tokens [B, n, D] stand above the limit of their file's site, in median norms of their image."""
    parts = []
    for name, tokens in seen.items():
        site = sites[name]
        for each in tokens:
            counted = torch.ones(each.shape[1], dtype=torch.bool)
            counted[site.exclude] = False
            norms = each.float().norm(dim=-1).index_select(1, counted.nonzero().flatten().to(each.device))
            limit = outlier_limit(norms.detach(), site.rule, site.threshold)
            median = norms.detach().median(dim=1, keepdim=True).values.clamp(min=1e-12)
            parts.append(((norms - limit) / median).clamp(min=0).mean())
    return torch.stack(parts).mean()


def _mean_square(values: Tensor) -> Tensor:
    return values.square().mean()


def _tensors(made: Any) -> tuple[Tensor, ...]:
    return (made,) if isinstance(made, Tensor) else tuple(made)
