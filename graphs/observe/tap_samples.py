"""A compact picture of a tensor: a fixed sample of its values, and the exact norm of every token.

Tokens come first: [batch, T, C] as it is, [batch, heads, T, d] and [batch, T, heads, d] as [batch, T, heads * d],
[batch, C] as one token. Everything follows from the shape alone, so that PyTorch, numpy and graphs sample alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SEED = 20_260_505
MOST_TOKENS = 1024
EDGE = 128  # tokens at either end that are always kept: registers are the first rows, or the last
OUTER_VALUES, INNER_VALUES = 2048, 256  # of one image, that are kept of a block's output, and inside a block
FEWEST_CHANNELS = 4  # whatever the number of tokens


@dataclass(frozen=True)
class Layout:
    """How a tensor of one shape is laid out: `order` of its axes, then [batch, tokens, channels]."""

    order: tuple[int, ...]
    tokens: int
    channels: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> Layout:
        """`shape` [batch, ...] of rank 2 to 4. Heads are taken to be fewer than tokens."""
        order = tuple(range(len(shape)))
        if len(shape) == 2:
            return cls(order, 1, shape[1])
        if len(shape) == 4 and shape[2] > shape[1]:
            return cls((0, 2, 1, 3), shape[2], shape[1] * shape[3])
        return cls(order, shape[1], math.prod(shape[2:]))

    def token_rows(self) -> Array:
        """Which tokens are kept, ascending."""
        if self.tokens <= MOST_TOKENS:
            return np.arange(self.tokens)
        inner = np.random.default_rng([SEED, self.tokens]).permutation(np.arange(EDGE, self.tokens - EDGE))
        edges = [np.arange(EDGE), np.arange(self.tokens - EDGE, self.tokens)]
        return np.sort(np.concatenate([*edges, inner[: MOST_TOKENS - 2 * EDGE]]))

    def channels_for(self, values: int) -> int:
        """How many channels an image may keep of which `values` numbers are wanted."""
        return min(self.channels, max(FEWEST_CHANNELS, values // min(self.tokens, MOST_TOKENS)))

    def channel_rows(self, count: int) -> Array:
        """Which `count` channels are kept; a smaller sample is the start of a larger."""
        return np.random.default_rng([SEED, self.channels]).permutation(self.channels)[:count]


@dataclass(frozen=True)
class Sample:
    """`values` [batch, tokens kept, channels kept] and `norms` [batch, tokens], both float32."""

    values: Array
    norms: Array

    @classmethod
    def of(cls, array: Array, values: int) -> Sample:
        """Of `array` [batch, ...]; about `values` numbers of each image."""
        layout = Layout.of(array.shape)
        flat = array.transpose(layout.order).reshape(len(array), layout.tokens, layout.channels).astype(np.float32)
        kept = flat[:, layout.token_rows()][..., layout.channel_rows(layout.channels_for(values))]
        return cls(np.ascontiguousarray(kept), np.linalg.norm(flat, axis=-1))

    def first_channels(self, count: int) -> Sample:
        """A smaller sample of the same tensor."""
        return Sample(np.ascontiguousarray(self.values[..., :count]), self.norms)
