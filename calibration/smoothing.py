"""Channel factors that even out an activation at its weight's expense (SmoothQuant, arXiv 2211.10438).

x [.., K] / s times W [K, N] * s is the same product; s_j = max|x_j|^alpha / max|W_j|^(1 - alpha).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ALPHAS = (0.35, 0.5, 0.65, 0.8)


def smoothing_factors(channel_largest: Array, weight: Array, alpha: float) -> Array:
    """s [K] float32 of geometric mean 1, for |x| maxima [K] and a weight [K, N]; 1 where a channel is always zero."""
    activation = np.asarray(channel_largest, np.float64)
    partner = np.abs(weight).max(axis=1).astype(np.float64)
    used = (activation > 0) & (partner > 0)
    factors = np.ones(len(activation))
    factors[used] = activation[used] ** alpha / partner[used] ** (1 - alpha)
    if used.any():
        factors[used] /= np.exp(np.log(factors[used]).mean())
    return np.clip(factors, 1e-4, 1e4).astype(np.float32)
