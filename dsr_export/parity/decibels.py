"""Signal to noise in decibels: the one formula behind every SNR and PSNR of a candidate."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.parity.tolerances import IDENTICAL_DB as IDENTICAL_DB

Array = npt.NDArray[Any]


def decibels(signal: Array | float, noise: Array | float) -> Array:
    """10 log10(signal / noise) of each row, within +-`IDENTICAL_DB`; NaN where either is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = 10 * (np.log10(signal) - np.log10(noise))
    return np.clip(np.where(np.equal(noise, 0), IDENTICAL_DB, values), -IDENTICAL_DB, IDENTICAL_DB)
