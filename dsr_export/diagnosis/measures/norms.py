"""Norms of the tokens behind every layer, kept as histograms and peaks: memory does not grow with images.

Shapes: B images, L layers, C columns (time steps, or single images), N patch tokens, P other rows (registers, CLS).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.diagnosis.measures.bins import LogBins, share_above

Array = npt.NDArray[Any]


class NormStats:
    """Accumulates one run. `counts [L, C, bins]`, `peaks [L, C, N]` and `other_peaks [L]` are there at any time."""

    def __init__(self, *, layers: int, columns: int, patches: int, bins: LogBins) -> None:
        self.bins = bins
        self.counts = np.zeros((layers, columns, bins.size), np.int64)
        self.peaks = np.zeros((layers, columns, patches), np.float32)
        self.other_peaks = np.zeros(layers, np.float32)
        self.largest = np.zeros(layers, np.float64)
        self.non_finite = np.zeros(layers, np.int64)

    def add(self, layer: int, column: int, patches: Array, others: Array) -> None:
        """Norms (or multiples of a norm) of patch tokens [B, N] and other rows [B, P]; infinite for broken tokens."""
        self.counts[layer, column] += self.bins.count(patches)
        self.peaks[layer, column] = np.maximum(self.peaks[layer, column], patches.max(axis=0))
        self.largest[layer] = max(self.largest[layer], float(patches.max()))
        self.non_finite[layer] += int((~np.isfinite(patches)).sum())
        if others.size:
            self.other_peaks[layer] = max(self.other_peaks[layer], others.max())

    def by_layer(self) -> Array:
        """Counts over all columns, [L, bins]."""
        return np.asarray(self.counts.sum(axis=1))

    def ratios(self, edges: list[int | None]) -> Array:
        """The share of patch tokens above each layer's edge, [L, C]; 0 where a layer has none."""
        rows = [np.zeros(self.counts.shape[1])] * len(edges)
        for layer, edge in enumerate(edges):
            if edge is not None:
                rows[layer] = share_above(self.counts[layer], edge)
        return np.stack(rows)


def relative_norms(norms: Array, patches: slice) -> tuple[Array, Array]:
    """Norms [B, rows] of all tokens -> multiples of their image's median patch norm: patches [B, N], others [B, P].

    The lower median, as run-time replacement takes it (`dsr::ReplaceOutliers`); a norm that is not finite is infinite.
    """
    known = np.where(np.isfinite(norms), norms, np.inf).astype(np.float64)
    ordered = np.sort(known[:, patches], axis=1)
    median = ordered[:, (ordered.shape[1] - 1) // 2, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        multiples = np.where(np.isfinite(known), known / median, np.inf)
    multiples = np.where(known == 0, 0.0, multiples)
    return multiples[:, patches], np.delete(multiples, np.r_[patches], axis=1)
