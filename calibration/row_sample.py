"""A bounded sample of rows that depends on neither the order nor the batches they come in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class RowSample:
    """Keeps the `size` rows of smallest key. A key is a hash of (sample, token), so the same rows are always kept.

    Rows of weight w are w times as likely to be among them (keys are exponential variates of rate w). No two rows have
    the same sample and token, so that equal keys leave nothing open.
    """

    def __init__(self, size: int, width: int) -> None:
        self._size = size
        self._keys = np.empty(0)
        self._samples = np.empty(0, np.int64)
        self._tokens = np.empty(0, np.int64)
        self._rows = np.empty((0, width), np.float32)

    def offer(self, x: Array, samples: Array, weights: Array) -> None:
        """Takes x [B, N, K] of the samples with the ids [B], weighted [B]."""
        count, tokens = x.shape[:2]
        token, sample = np.tile(np.arange(tokens), count), np.repeat(np.asarray(samples, np.int64), tokens)
        uniform = _uniform(sample.astype(np.uint64), token.astype(np.uint64))
        keys = -np.log(uniform) / np.repeat(weights, tokens)
        near = np.lexsort((token, sample, keys))[: self._size]
        self._take(keys[near], sample[near], token[near], x.reshape(count * tokens, -1)[near])

    def arrays(self) -> dict[str, Array]:
        """What is kept, by name: `keys`, `samples` and `tokens` [n], `rows` [n, K]."""
        return {"keys": self._keys, "samples": self._samples, "tokens": self._tokens, "rows": self._rows}

    def merge(self, arrays: Mapping[str, Array]) -> None:
        """Takes what the sample of another stream kept, as `arrays` gave it."""
        self._take(arrays["keys"], arrays["samples"], arrays["tokens"], arrays["rows"])

    def _take(self, keys: Array, samples: Array, tokens: Array, rows: Array) -> None:
        keys, samples = np.append(self._keys, keys), np.append(self._samples, samples)
        tokens = np.append(self._tokens, tokens)
        kept = np.lexsort((tokens, samples, keys))[: self._size]
        self._rows = np.concatenate([self._rows, rows])[kept]
        self._keys, self._samples, self._tokens = keys[kept], samples[kept], tokens[kept]

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
