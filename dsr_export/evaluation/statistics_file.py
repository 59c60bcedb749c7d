"""Whether `mu`, `sigma` and `count` of a file can be of any pictures: else a distance is a number all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError

Array = npt.NDArray[Any]
MOST = 2**53  # pictures: float64 counts no further
_ROUNDING = 1e-5  # of the largest entry: statistics may have been kept in float32
_AGAIN = "make the statistics again: they are the mean of features, and their covariance"


def checked_statistics(path: Path, mean: Array, covariance: Array) -> tuple[Array, Array]:
    """Mean [D] and covariance [D, D] in float64.

    Raises ExportError where they are no real numbers, NaN or infinite, or the covariance is not symmetric, or has
    negative eigenvalues, beyond rounding.
    """
    if not {mean.dtype.kind, covariance.dtype.kind} <= set("fiu"):
        raise ExportError(f"{path} has statistics of {mean.dtype} and {covariance.dtype}", hint=_AGAIN)
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ExportError(f"{path} holds NaN or infinities", hint="make the statistics again")
    largest = float(np.abs(covariance).max(initial=0.0))
    if float(np.abs(covariance - covariance.T).max(initial=0.0)) > _ROUNDING * largest:
        raise ExportError(f"'sigma' in {path} is not symmetric, and no covariance", hint=_AGAIN)
    lowest = float(np.linalg.eigvalsh(covariance).min(initial=0.0))
    if lowest < -_ROUNDING * largest * len(mean):
        raise ExportError(f"'sigma' in {path} has the eigenvalue {lowest:.3g}, and is no covariance", hint=_AGAIN)
    return mean, covariance


def checked_count(path: Path, value: Array) -> int:
    """How many pictures there were. ExportError for anything but one whole number from 1."""
    whole = value.size == 1 and value.dtype.kind in "fiu" and bool(np.isfinite(value).all())
    found = float(value.reshape(-1)[0]) if whole else 0.0
    if not (1 <= found <= MOST and found == int(found)):
        said = f"{value.reshape(-1)[0]}" if value.size == 1 else f"of {list(value.shape)}"
        raise ExportError(f"'count' in {path} is {said}", hint="a whole number of pictures, or leave it away")
    return int(found)
