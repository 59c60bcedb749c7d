"""The range of least mean squared error: rounding within it against clipping beyond."""

from __future__ import annotations

import numpy as np

from calibration.methods.magnitudes import Magnitudes

CANDIDATES = np.linspace(0.02, 1.0, 99)  # of the largest magnitude


def range_of(seen: Magnitudes) -> float:
    """The best of `CANDIDATES`, the larger of two equal ones."""
    if seen.largest == 0:
        return 0.0
    errors = [seen.error(seen.largest * share) for share in CANDIDATES[::-1]]
    return float(seen.largest * CANDIDATES[::-1][int(np.argmin(errors))])
