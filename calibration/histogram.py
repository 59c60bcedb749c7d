"""Histograms of magnitudes whose bins are fixed beforehand, so that streams in any order and batching give the same.

A bin is an exponent and the first four bits of the mantissa of a float32: 16 linear bins an octave, 6 % wide at most.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_SHIFT = 19  # of 23 mantissa bits, four are kept
BINS = 255 << 4
EDGES = (np.arange(BINS + 1, dtype=np.int64) << _SHIFT).astype(np.int32).view(np.float32)  # [BINS + 1]
CENTRES = ((EDGES[:-1].astype(np.float64) + EDGES[1:].astype(np.float64)) / 2)[: BINS - 1]


def magnitude_histogram(values: Array) -> Array:
    """Counts [BINS] int64 of the magnitudes of finite float32 `values`, any shape."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).ravel() & 0x7FFFFFFF
    return np.bincount(bits >> _SHIFT, minlength=BINS)[:BINS]


def occupied(counts: Array) -> tuple[Array, Array]:
    """Centres and counts of the bins that hold anything."""
    used = np.flatnonzero(counts[: BINS - 1])
    return CENTRES[used], counts[used].astype(np.float64)
