"""Activations of register neurons moved onto register rows: the operator and its definition.

Source: arXiv 2506.08010. Shapes: B batch, N tokens, R registers, H MLP width.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("dsr::shift_register_neurons", mutates_args=())
def shift_register_neurons(
    a: Tensor, neurons: list[int], registers: int, scale: list[float], normal_values: str
) -> Tensor:
    """The definition: a [B, N + R, H] -> the same shape, written in place as the released hook does."""
    a = a.clone(memory_format=torch.contiguous_format)
    index = torch.tensor(sorted(set(neurons)), device=a.device)
    listed = a[:, :, index]
    high, low = listed.amax(dim=(1, 2)), listed.amin(dim=(1, 2))
    signed_max = torch.where(high.abs() > low.abs(), high, low)  # [B]
    normal = a[:, 1:-registers, index]  # row 0 is left alone, as released
    a[:, 1:-registers, index] = _normal_values(normal, normal_values)
    a[:, -registers:, index] = signed_max[:, None, None] * a.new_tensor(scale)[None, :, None]
    return a


@shift_register_neurons.register_fake
def _(a: Tensor, *_: object) -> Tensor:
    return torch.empty_like(a, memory_format=torch.contiguous_format)


def _normal_values(normal: Tensor, mode: str) -> Tensor:
    """What the listed neurons of ordinary rows [B, n, I] become."""
    if mode == "zero":
        return torch.zeros_like(normal)
    if mode == "same":
        return normal
    mean = normal.mean(dim=1, keepdim=True)
    if mode == "mean":
        return mean.expand_as(normal)
    if normal.shape[1] < 2:
        return normal  # the unbiased std of one row is undefined: nothing stands out
    return torch.where(normal > mean + normal.std(dim=1, keepdim=True), mean, normal)
