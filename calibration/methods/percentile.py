"""A high percentile of the magnitudes: what lies beyond is clipped."""

from __future__ import annotations

import numpy as np

from calibration.methods.magnitudes import Magnitudes

PERCENTILE = 99.99


def range_of(seen: Magnitudes, percentile: float = PERCENTILE) -> float:
    """The smallest bin's upper value that at least `percentile` per cent of the magnitudes do not exceed."""
    centres, counts = seen.bins()
    if not len(centres) or percentile >= 100:
        return seen.largest
    reached = np.searchsorted(np.cumsum(counts), counts.sum() * percentile / 100)
    return float(min(centres[min(reached, len(centres) - 1)] * (1 + 1 / 32), seen.largest))
