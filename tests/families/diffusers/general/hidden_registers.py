"""What registers do to a model beside being attended to, which must be nothing: it is run with their keys hidden."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
import torch.nn.functional as functional
from torch import Tensor

from dsr_export.subject import Subject

_ATTENTION = functional.scaled_dot_product_attention


def hidden_effect(plain: Subject, subject: Subject, count: int) -> tuple[float, float, float]:
    """The largest change that `count` registers make, the same with their keys hidden, and the largest output.

    `plain` is the model without them. In every attention the other keys must be those of `plain`, in their order.
    """
    inputs = [torch.from_numpy(value) for value in plain.example(3, seed=1).values()]
    keys: list[Tensor] = []
    without = _run(plain, inputs, lambda key, mask: (keys.append(key), mask)[1])
    left = list(keys)
    hidden = _run(subject, inputs, lambda key, mask: _hiding(key, left.pop(0), mask, count))
    assert not left
    seen = _run(subject, inputs, lambda key, mask: mask)
    return float((seen - without).abs().max()), float((hidden - without).abs().max()), float(without.abs().max())


def _run(subject: Subject, inputs: list[Tensor], masked: Any) -> Tensor:
    def attended(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *rest: Any, **how: Any) -> Tensor:
        assert not rest or not rest[-1], "a causal mask has no room for another"
        how.pop("is_causal", None)
        return _ATTENTION(query, key, value, attn_mask=masked(key, attn_mask), **how)

    with torch.no_grad(), mock.patch.object(functional, "scaled_dot_product_attention", attended):
        made = subject.module(*inputs)
    found: Tensor = made[0] if isinstance(made, tuple) else made
    return found


def _hiding(key: Tensor, plain: Tensor, mask: Tensor | None, count: int) -> Tensor | None:
    length = key.shape[-2]
    if length == plain.shape[-2]:
        return mask
    assert length == plain.shape[-2] + count
    places = (at for at in range(length - count + 1) if _near(_without(key, at, count), plain))
    at = next(places, None)
    assert at is not None, "keys beside registers are not those without registers"
    bias = torch.zeros(1, length)
    bias[:, at : at + count] = -torch.inf
    if mask is None:
        return bias
    return bias + (torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask)


def _without(key: Tensor, at: int, count: int) -> Tensor:
    return torch.cat([key[..., :at, :], key[..., at + count :, :]], dim=-2)


def _near(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one, other, rtol=0, atol=1e-4 * float(other.abs().max())))
