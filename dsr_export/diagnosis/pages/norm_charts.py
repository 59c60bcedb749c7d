"""Norm histograms as they are drawn: fewer bins than were counted, and only where there is something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.diagnosis.measures.bins import LogBins

Array = npt.NDArray[Any]
TOGETHER = 4  # bins drawn as one


def coarse(counts: Sequence[Array], bins: LogBins) -> tuple[list[float], list[list[float]]]:
    """Counts [bins.size] of several runs -> common edges, and each run's counts between them (one fewer).

    What lies beyond either end of the axis, norms that are not finite too, is drawn in the outermost bin.
    """
    inner = [np.concatenate([[c[0] + c[1]], c[2:-2], [c[-2] + c[-1]]]) for c in counts]  # bin i: edges i to i + 1
    summed = [each.reshape(-1, TOGETHER).sum(axis=1) for each in inner]
    filled = np.flatnonzero(np.sum(summed, axis=0))
    if not len(filled):
        return [1.0, 2.0], [[0.0] for _ in counts]
    first, last = max(int(filled[0]) - 1, 0), min(int(filled[-1]) + 2, len(summed[0]))
    edges = bins.edges[::TOGETHER][first : last + 1]
    return [float(edge) for edge in edges], [[float(v) for v in each[first:last]] for each in summed]
