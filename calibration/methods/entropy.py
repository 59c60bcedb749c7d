"""The range whose 128 levels keep most of the distribution's information (least Kullback-Leibler divergence).

Source: Migacz, 8-bit inference with TensorRT (GTC 2017), on 2,048 linear bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.methods.magnitudes import Magnitudes

Array = npt.NDArray[Any]
LINEAR_BINS = 2048
LEVELS = 128


def range_of(seen: Magnitudes) -> float:
    """The best of the limits at every 16th linear bin."""
    if seen.largest == 0:
        return 0.0
    linear = _linear(seen)
    limits = range(LEVELS, LINEAR_BINS + 1, 16)
    losses = [_divergence(linear, limit) for limit in limits]
    return float(seen.largest * limits[int(np.argmin(losses))] / LINEAR_BINS)


def _linear(seen: Magnitudes) -> Array:
    """Counts in equal bins up to the largest magnitude, [LINEAR_BINS]; zeros carry no information."""
    centres, counts = seen.bins()
    place = np.minimum((centres / seen.largest * LINEAR_BINS).astype(int), LINEAR_BINS - 1)
    linear = np.bincount(place, counts, minlength=LINEAR_BINS)
    linear[0] = 0
    return linear


def _divergence(linear: Array, limit: int) -> float:
    """KL(P || Q): P clipped at `limit` with its tail in the last bin, Q what `LEVELS` levels make of it."""
    p = linear[:limit].copy()
    p[-1] += linear[limit:].sum()
    level = np.arange(limit) * LEVELS // limit
    inside, used = linear[:limit], linear[:limit] > 0
    total = np.bincount(level, inside, minlength=LEVELS)
    filled = np.bincount(level, used, minlength=LEVELS)
    q = np.where(used, (total / np.maximum(filled, 1))[level], 0)
    if p.sum() == 0 or q.sum() == 0:
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    kept = p > 0
    return float((p[kept] * np.log(p[kept] / np.maximum(q[kept], 1e-12))).sum())
