"""Tensors over bytes of the archive: every element must lie within them, and few bytes must not become many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dsr_export.program_archive.findings import MalformedError

_MOST_DIMENSIONS, _LARGEST = 64, 1 << 40
_SPARE_BYTES = 64 << 20
_MOST_USES = 16


def checked_view(flat: Tensor, sizes: Sequence[int], strides: Sequence[int], offset: int) -> Tensor:
    """A tensor over the elements of `flat` [n]. Raises MalformedError where it would reach beyond them."""
    numbers = [*sizes, *strides, offset]
    if len(sizes) != len(strides) or len(sizes) > _MOST_DIMENSIONS:
        raise MalformedError(f"a tensor has {len(sizes)} dimensions and {len(strides)} strides")
    if not all(type(number) is int and 0 <= number <= _LARGEST for number in numbers):
        raise MalformedError(f"a tensor has the sizes {list(sizes)[:8]} and the strides {list(strides)[:8]}")
    empty = 0 in sizes
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if offset > len(flat) if empty else last >= len(flat):
        raise MalformedError(f"a tensor of the sizes {list(sizes)[:8]} does not fit in its {len(flat)} elements")
    if math.prod(sizes) > _LARGEST or any(size > _LARGEST for size in sizes):
        raise MalformedError(f"a tensor has the sizes {list(sizes)[:8]}")
    return torch.as_strided(flat, list(sizes), list(strides), offset)


@dataclass
class Budget:
    """What all tensors over `stored` bytes may have together when written out: views share, expanded ones multiply."""

    stored: int
    used: int = field(default=0)

    def take(self, tensor: Tensor) -> None:
        """Counts `tensor` in. Raises MalformedError where there are far more elements than stored bytes."""
        self.used += tensor.numel() * tensor.element_size()
        if self.used > _MOST_USES * self.stored + _SPARE_BYTES:
            raise MalformedError(f"its tensors have over {self.used} bytes, and {self.stored} are stored")
