"""Recursive detection and replacement of outlier tokens: the operator, its definition, and its gradients.

Source: arXiv 2605.05206. Shapes: B batch, N tokens, R registers, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("dsr::replace_outliers", mutates_args=())
def replace_outliers(
    x: Tensor,
    registers: Tensor,
    choice_weight: Tensor | None,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    rule: str,
    threshold: float,
    rounds: int,
    choice: str,
    exclude: list[int],
) -> Tensor:
    """x [B, N, D], registers [R, D] -> [B, N, D]: one node in a trace. Gradients are those of `replaced`."""
    gate = choice_weight, gate_weight, gate_bias
    return replaced(x, registers, gate, rule, threshold, rounds, choice, exclude)


def replaced(
    x: Tensor,
    registers: Tensor,
    gate: tuple[Tensor | None, Tensor | None, Tensor | None],
    rule: str,
    threshold: float,
    rounds: int,
    choice: str,
    exclude: Sequence[int],
) -> Tensor:
    """The definition: x [B, N, D], registers [R, D] -> [B, N, D]. Stops early where nothing is an outlier."""
    counted = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
    counted[list(exclude)] = False
    x = x.clone(memory_format=torch.contiguous_format)
    for _ in range(rounds if counted.any() else 0):
        norms = _norms(x)  # [B, N]
        limit = outlier_limit(norms[:, counted], rule, threshold)  # [B, 1]
        outlier = ((norms > limit) | ~norms.isfinite()) & counted
        if not outlier.any():
            break
        corrected = _corrected(x, norms, limit, outlier, registers, gate, choice)
        x = torch.where(outlier[..., None], corrected.to(x.dtype), x)
    return x


@replace_outliers.register_fake
def _(x: Tensor, registers: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.settings = inputs[5:]


def _gradients(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """By the definition once more, so that nothing but its inputs is kept. What is an outlier has no gradient."""
    needed = context.needs_input_grad[:5]
    given: list[Any] = [None if each is None else each.detach() for each in context.saved_tensors]
    wanted = [each.requires_grad_() for each, need in zip(given, needed, strict=True) if need and each is not None]
    with torch.enable_grad():
        made = replaced(given[0], given[1], (given[2], given[3], given[4]), *context.settings)
    found = iter(torch.autograd.grad(made, wanted, gradient, allow_unused=True) if made.requires_grad else ())
    return (*(next(found, None) if need else None for need in needed), *(None for _ in context.settings))


replace_outliers.register_autograd(_gradients, setup_context=_keep_inputs)


def _norms(x: Tensor) -> Tensor:
    """[B, N] float32 of [B, N, D]; not finite for a token that is not, whose gradient is then 0 and no NaN."""
    h = x.float()
    norms: Tensor = torch.linalg.vector_norm(h, dim=-1)
    finite = norms.isfinite()
    if finite.all():
        return norms
    return torch.where(finite, torch.linalg.vector_norm(torch.where(finite[..., None], h, 0), dim=-1), torch.inf)


def outlier_limit(norms: Tensor, rule: str, value: float) -> Tensor:
    """Threshold per image, [B, 1], from the counted norms [B, n]. Non-finite norms sort last and join no mean."""
    finite = norms.isfinite()
    if rule == "absolute":
        return norms.new_full((norms.shape[0], 1), value)
    if rule == "median":
        return value * torch.where(finite, norms, torch.inf).median(dim=1, keepdim=True).values
    count = finite.sum(dim=1, keepdim=True).clamp(min=1)
    mean = torch.where(finite, norms, 0).sum(dim=1, keepdim=True) / count
    variance = torch.where(finite, norms - mean, 0).square().sum(dim=1, keepdim=True) / count
    return mean + value * torch.where(variance > 0, variance, 1).sqrt() * (variance > 0)  # a root has no slope at 0


def _corrected(
    x: Tensor,
    norms: Tensor,
    limit: Tensor,
    outlier: Tensor,
    registers: Tensor,
    gate: tuple[Tensor | None, Tensor | None, Tensor | None],
    choice: str,
) -> Tensor:
    """What an outlier becomes, [B, N, D] float32; a token with a non-finite norm has no direction left.

    Tokens that are no outliers, and broken ones, count as 0: what is not finite in them would make gradients NaN.
    """
    fits = outlier & norms.isfinite()  # [B, N]
    h, rows = torch.where(fits[..., None], x.float(), 0), registers.float()
    if choice == "mask":
        return torch.zeros_like(h)
    if choice == "clip":
        return h * (torch.where(fits, limit, 0) / torch.where(fits, norms, 1))[..., None]
    if choice == "nearest":
        return rows[best_register(h, norms, rows)]
    choice_weight, gate_weight, gate_bias = (g.float() for g in gate if g is not None)
    mixture = (h @ choice_weight).softmax(dim=-1) @ rows
    strength = (h @ gate_weight + gate_bias).sigmoid()  # [B, N, 1]
    return torch.where(fits[..., None], h + strength * (mixture - h), rows[0])


def best_register(h: Tensor, norms: Tensor, rows: Tensor) -> Tensor:
    """Index [B, N] of the register with the highest cosine similarity; ties take the lowest index.

    ||x|| > 0 divides every similarity of one token alike and so is left out. A zero register fits nothing;
    a token with a non-finite norm takes register 0.
    """
    unit = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)  # [R, D]
    similarity = h @ unit.T  # [B, N, R]
    similarity = torch.where(similarity.isnan(), -torch.inf, similarity)
    return torch.where(norms.isfinite(), similarity.argmax(dim=-1), 0)
