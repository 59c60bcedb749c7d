"""Histograms on a logarithmic axis: how norms are kept, whatever their number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
PER_OCTAVE = 32
LOWEST, HIGHEST = -8, 12  # octaves around the anchor


@dataclass(frozen=True)
class LogBins:
    """Bins `edges[i - 1] < v <= edges[i]`, with one open bin at either end. `anchor` is exactly one of the edges."""

    anchor: float = 1.0

    @property
    def edges(self) -> Array:
        """Ascending, [E] float64."""
        return self.anchor * 2.0 ** (np.arange(LOWEST * PER_OCTAVE, HIGHEST * PER_OCTAVE + 1) / PER_OCTAVE)

    @property
    def size(self) -> int:
        """How many bins, the open ones included."""
        return (HIGHEST - LOWEST) * PER_OCTAVE + 2

    @property
    def anchor_edge(self) -> int:
        return -LOWEST * PER_OCTAVE

    def count(self, values: Array) -> Array:
        """Values [...] >= 0 -> how many fall into each bin, [size] int64. What is not finite goes to the last."""
        known = np.where(np.isfinite(values), values, np.inf).ravel()
        return np.bincount(np.searchsorted(self.edges, known, side="left"), minlength=self.size)

    def edge_at(self, value: float) -> int:
        """The nearest edge, in octaves."""
        place = round((np.log2(value / self.anchor) - LOWEST) * PER_OCTAVE)
        return int(np.clip(place, 0, len(self.edges) - 1))

    def quantile(self, counts: Array, share: float) -> float:
        """The upper edge below or at which `share` of the counted values lie; 0 for none counted."""
        total = int(counts.sum())
        if total == 0:
            return 0.0
        bin_index = int(np.searchsorted(np.cumsum(counts), share * total, side="left"))
        return float(self.edges[min(bin_index, len(self.edges) - 1)])


def share_above(counts: Array, edge: int) -> Array:
    """Counts [..., size] -> the share strictly above edge `edge`, [...]; 0 where nothing was counted."""
    above, total = counts[..., edge + 1 :].sum(axis=-1), counts.sum(axis=-1)
    return np.asarray(above / np.maximum(total, 1))
