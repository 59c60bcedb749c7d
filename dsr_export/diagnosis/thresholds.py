"""Which threshold separates outlier tokens from ordinary ones, if there are any.

Norms are multiples of their image's median norm, over all time steps of one layer. Two tests, the first that applies:

- *gap*: the lowest empty stretch that spans a factor of `GAP` or more and ends at `LEAST` medians or beyond. The
  threshold is its geometric middle. Above it may lie a quarter of the tokens at most; what is more is no outlier.
- *tail*: no such gap, but tokens beyond both `TAIL` medians and `SIGMAS` deviations of the logarithm (estimated from
  the quartiles, which outliers do not move). Outliers that fade with the noise fill the gap up; a high percentile
  would then call all but the largest of them ordinary.

Where neither applies, the layer has no outliers.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dsr_export.diagnosis.measures.bins import LogBins, share_above

Array = npt.NDArray[Any]
GAP = 1.5
LEAST = 3.0
TAIL = 4.0
SIGMAS = 6.0
MOST = 0.25
_QUARTILES_IN_SIGMAS = 1.349  # of a normal distribution


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A layer's threshold, in medians. `edge` is its place in the histogram, `share` what lies above it."""

    edge: int
    value: float
    found: Literal["gap", "tail"]
    share: float


def find_limit(counts: Array, bins: LogBins) -> Limit | None:
    """The limit of a layer from its histogram [bins.size]; None where it has no outliers."""
    gap = _gap(counts, bins)
    if gap is not None:
        return _limit(counts, bins, gap, "gap")
    tail = _tail(counts, bins)
    return None if share_above(counts, tail) == 0 else _limit(counts, bins, tail, "tail")


def _limit(counts: Array, bins: LogBins, edge: int, found: Literal["gap", "tail"]) -> Limit:
    value = math.floor(float(bins.edges[edge]) * 1000 - 1e-2) / 1000  # what is clipped to it stays below the edge
    return Limit(edge=edge, value=value, found=found, share=float(share_above(counts, edge)))


def _gap(counts: Array, bins: LogBins) -> int | None:
    edges, occupied = bins.edges, np.flatnonzero(counts)
    for below, above in itertools.pairwise(occupied):
        start, end = int(below), int(above) - 1  # the edges between which nothing lies
        if start == end or edges[end] < LEAST or edges[end] / edges[start] < GAP:
            continue
        if share_above(counts, start) <= MOST:
            return (start + end) // 2
    return None


def _tail(counts: Array, bins: LogBins) -> int:
    """The edge beyond which the tail test calls a token an outlier."""
    low, middle, high = (bins.quantile(counts, share) for share in (0.25, 0.5, 0.75))
    if not low:
        return len(bins.edges) - 1
    spread = math.log(high / low) / _QUARTILES_IN_SIGMAS
    return bins.edge_at(max(TAIL, middle * math.exp(SIGMAS * spread)))
