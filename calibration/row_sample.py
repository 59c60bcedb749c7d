"""A bounded sample of rows that depends on neither the order nor the batches they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class RowSample:
    """Keeps the `size` rows of smallest key. A key is a hash of (sample, token), so the same rows are always kept.

    Rows of weight w are w times as likely to be among them (keys are exponential variates of rate w).
    """

    def __init__(self, size: int, width: int) -> None:
        self._size = size
        self._keys = np.empty(0)
        self._tokens = np.empty(0, np.int64)
        self._rows = np.empty((0, width), np.float32)

    def offer(self, x: Array, samples: Array, weights: Array) -> None:
        """Takes x [B, N, K] of the samples with the ids [B], weighted [B]."""
        count, tokens = x.shape[:2]
        token = np.tile(np.arange(tokens), count)
        uniform = _uniform(np.repeat(samples.astype(np.uint64), tokens), token.astype(np.uint64))
        keys = -np.log(uniform) / np.repeat(weights, tokens)
        near = np.argsort(keys, kind="stable")[: self._size]
        rows = x.reshape(count * tokens, -1)[near]
        keys, token = np.append(self._keys, keys[near]), np.append(self._tokens, token[near])
        kept = np.argsort(keys, kind="stable")[: self._size]
        self._rows = np.concatenate([self._rows, rows])[kept]
        self._keys, self._tokens = keys[kept], token[kept]

    @property
    def rows(self) -> Array:
        """[at most size, K] float32, in the order of their keys."""
        return self._rows

    @property
    def tokens(self) -> Array:
        """The token index of each row."""
        return self._tokens


def _uniform(sample: Array, token: Array) -> Array:
    """Hashes of pairs, uniform in (0, 1]: splitmix64 (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        z: Array = sample * np.uint64(0x9E3779B97F4A7C15) + token * np.uint64(0xD1B54A32D192ED03) + np.uint64(1)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z = z ^ (z >> np.uint64(31))
    return np.asarray((z >> np.uint64(11)).astype(np.float64) / 2**53 + 2**-54)
