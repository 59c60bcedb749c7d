"""Signal to noise in decibels: the one formula behind every SNR and PSNR of a candidate."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
IDENTICAL_DB = 300.0  # stands for an error of zero, which has no logarithm


def decibels(signal: Array | float, noise: Array | float) -> Array:
    """10 log10(signal / noise) of each row, within +-`IDENTICAL_DB`; NaN where either is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = 10 * (np.log10(signal) - np.log10(noise))
    return np.clip(np.where(np.equal(noise, 0), IDENTICAL_DB, values), -IDENTICAL_DB, IDENTICAL_DB)
