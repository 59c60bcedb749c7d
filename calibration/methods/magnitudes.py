"""What a range is chosen from: the histogram of a tensor's magnitudes, and its exact largest one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.histogram import BINS, magnitude_histogram, occupied
from graphs.quantize.formats import INT8

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Magnitudes:
    """`counts` [BINS] as `magnitude_histogram` makes them; `largest` is exact."""

    counts: Array
    largest: float

    @classmethod
    def of(cls, values: Array) -> Magnitudes:
        """Those of one array."""
        size = np.abs(values).max(initial=0.0)
        return cls(magnitude_histogram(values), float(size))

    @classmethod
    def none(cls) -> Magnitudes:
        return cls(np.zeros(BINS, np.int64), 0.0)

    def merged(self, other: Magnitudes) -> Magnitudes:
        """Those of both streams, in whatever order."""
        return Magnitudes(self.counts + other.counts, max(self.largest, other.largest))

    def bins(self) -> tuple[Array, Array]:
        """Centres, none above `largest`, and counts."""
        centres, counts = occupied(self.counts)
        return np.minimum(centres, self.largest), counts

    def error(self, limit: float) -> float:
        """Mean squared error of codes for [-limit, limit]: uniform rounding within it, clipping beyond."""
        centres, counts = self.bins()
        step = limit / INT8.largest
        rounding = np.minimum(step**2 / 12, centres**2)  # what lies below half a step becomes zero
        squared = np.where(centres <= limit, rounding, (centres - limit) ** 2)
        return float((squared * counts).sum() / max(counts.sum(), 1))
