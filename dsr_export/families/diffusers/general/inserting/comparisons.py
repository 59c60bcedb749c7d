"""Whether two outputs of a block are one, and entries in another order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROUNDING = 1e-4  # of the largest change that a block makes
APART = 1e-2  # of one token's change
RESOLUTION = 3e-6  # of the largest value


def held(made: Tensor, expected: Tensor, before: Tensor) -> bool:
    """Whether two outputs of a block are one but for rounding, as changes of what the tokens were before.

    Of each token by its own change: beside a few massive tokens, all others would pass for rounding.
    """
    error, change = ((one - other).abs().amax(-1) for one, other in ((made, expected), (expected, before)))
    floor = RESOLUTION * expected.abs().max()
    return bool(error.max() <= ROUNDING * change.max() + floor) and bool((error <= APART * change + floor).all())


def in_order(values: Tensor, axis: int, to: Tensor, taken: Tensor) -> Tensor:
    """`values` with the entries `taken` along `axis` at the places `to`."""
    index = torch.arange(values.shape[axis])
    index[to] = taken
    return values.index_select(axis, index)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other))
    return one is other or (type(one) is type(other) and not isinstance(one, Tensor) and one == other)
