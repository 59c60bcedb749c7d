"""Norms of a stream's tokens behind one block, by role: histograms, so that memory does not grow with images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.places import PLACES
from dsr_export.diagnosis.measures.bins import LogBins, share_above
from dsr_export.diagnosis.measures.norms import relative_norms

Array = npt.NDArray[Any]


class RoleNorms:
    """Histograms by step [roles, bins] of norms, as multiples of the median of the image's own tokens of the stream.

    `replaced` counts the tokens that a site changed there.
    """

    def __init__(self) -> None:
        self.bins = LogBins()
        self.steps: dict[int, Array] = {}
        self.largest = 0.0
        self.replaced = 0

    def add(self, step: int, norms: Array, roles: Array) -> None:
        """Norms [B, n] and roles of the same shape, of one call at `step`."""
        multiples, _ = relative_norms(norms, slice(0, norms.shape[1]))
        self.largest = max(self.largest, float(multiples.max()))
        counts = self.steps.setdefault(step, np.zeros((len(PLACES), self.bins.size), np.int64))
        for role in range(len(PLACES)):
            counts[role] += self.bins.count(multiples[roles == role])

    @property
    def by_role(self) -> Array:
        """All steps together, [roles, bins]."""
        return np.asarray(sum(self.steps.values()))

    @property
    def total(self) -> Array:
        """All roles as well, [bins]."""
        return np.asarray(self.by_role.sum(axis=0))

    def tokens(self) -> Array:
        """How many tokens of each role were seen, [roles]."""
        return np.asarray(self.by_role.sum(axis=1))

    def above(self, edge: int) -> Array:
        """How many of each role lie above the edge, [roles]."""
        return np.asarray(self.by_role[:, edge + 1 :].sum(axis=1))

    def ratios(self, edge: int) -> Array:
        """The share of all tokens above the edge at each step, [steps]."""
        return np.asarray([share_above(self.steps[step].sum(axis=0), edge) for step in sorted(self.steps)])
