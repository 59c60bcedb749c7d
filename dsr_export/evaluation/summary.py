"""From measured parts to figures with intervals: the same parts give the same bits, whoever measured them.

Intervals are 95 % of a normal distribution whose spread is that of figures of resampled parts (B. Efron, 1979):
as many parts as there are, drawn with replacement. Those of a difference use the same draws on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.evaluation.distances import frechet_distance, inception_score, resampled_distance
from dsr_export.evaluation.joined_parts import CANDIDATE, PAIRS, REFERENCE
from dsr_export.evaluation.measured import Measured
from dsr_export.evaluation.metrics import Metric
from dsr_export.evaluation.moments import Moments, merged
from dsr_export.evaluation.pair_figures import psnr

Array = npt.NDArray[Any]
Figure = Callable[[Sequence[Measured]], float]
"""Of parts, some of them perhaps several times."""

RESAMPLES, FEW, WIDE = 200, 20, 256
"""Of a figure, and of one whose features are wider than `WIDE`: a distance of 2,048 takes seconds."""
FEWEST_PARTS = 4  # of which an interval is made
SIGMAS = 1.959964


@dataclass(frozen=True)
class Interval:
    """A figure, and the 95 % interval around it; None where there are too few parts for one."""

    value: float
    half_width: float | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One metric: the candidate's figure, the reference's and the difference, where there is a reference."""

    metric: Metric
    value: Interval
    reference: Interval | None = None
    difference: Interval | None = None


@dataclass(frozen=True)
class _Spread:
    """A figure of all parts, and of each draw of them [draws]; none where there are too few parts."""

    value: float
    drawn: Array

    @classmethod
    def of(cls, figure: Figure, parts: Sequence[Measured], draws: Array, again: Figure | None = None) -> _Spread:
        """`again` is the figure of a draw, where it is not `figure`."""
        value, again = figure(parts), again or figure
        usable = len(parts) >= FEWEST_PARTS and math.isfinite(value)
        return cls(value, np.array([again([parts[i] for i in draw]) for draw in draws] if usable else []))

    def minus(self, other: _Spread) -> _Spread:
        both = min(len(self.drawn), len(other.drawn))
        return _Spread(self.value - other.value, self.drawn[:both] - other.drawn[:both])

    @property
    def interval(self) -> Interval:
        finite = self.drawn[np.isfinite(self.drawn)]
        return Interval(self.value, SIGMAS * float(np.std(finite, ddof=1)) if len(finite) > 1 else None)


def summarised(metric: Metric, parts: Sequence[Measured], real: Mapping[str, Moments], *, paired: bool) -> Line:
    """The line of `metric` of parts in their order. `real` are the data's moments by extractor."""
    draws = _draws(len(parts), _resamples(metric, parts))
    if metric.kind == "pair":
        return Line(metric=metric, value=_Spread.of(_of_pairs(metric), parts, draws).interval)
    made = _of_side(metric, CANDIDATE, real, parts, draws)
    if not paired:
        return Line(metric=metric, value=made.interval)
    other = _of_side(metric, REFERENCE, real, parts, draws)
    return Line(metric=metric, value=made.interval, reference=other.interval, difference=made.minus(other).interval)


def _of_side(
    metric: Metric, side: str, real: Mapping[str, Moments], parts: Sequence[Measured], draws: Array
) -> _Spread:
    if metric.kind == "distribution":
        name = f"{side}{metric.name}/"
        whole, again = (
            partial(_distance, distance, name, real[metric.name]) for distance in (frechet_distance, resampled_distance)
        )
        return _Spread.of(whole, parts, draws, again)
    if metric.kind == "population":
        return _Spread.of(lambda drawn: _inception_score(drawn, side), parts, draws)
    return _Spread.of(lambda drawn: _mean(drawn, f"{side}{metric.name}"), parts, draws)


def _distance(
    distance: Callable[[Moments, Moments], float], name: str, real: Moments, parts: Sequence[Measured]
) -> float:
    return distance(merged(Moments.from_arrays(each, name) for each in parts), real)


def _of_pairs(metric: Metric) -> Figure:
    if metric.name == "psnr":
        return lambda parts: psnr(_mean(parts, f"{PAIRS}squared_error"))
    return lambda parts: _mean(parts, f"{PAIRS}{metric.name}")


def _inception_score(parts: Sequence[Measured], side: str) -> float:
    entropies = f"{side}fid/negative_entropy"
    sizes = [len(each[entropies]) for each in parts]
    shares = np.average([each[f"{side}fid/shares"] for each in parts], axis=0, weights=sizes)
    return inception_score(shares, _mean(parts, entropies))


def _mean(parts: Sequence[Measured], name: str) -> float:
    """Of all pictures, correctly rounded: no order of summing shows in it."""
    return math.fsum(value for each in parts for value in each[name].tolist()) / sum(len(each[name]) for each in parts)


def _resamples(metric: Metric, parts: Sequence[Measured]) -> int:
    width = max((value.size for name, value in parts[0].items() if name.endswith(f"{metric.name}/mean")), default=0)
    return FEW if width > WIDE else RESAMPLES


def _draws(parts: int, count: int) -> Array:
    """Indices [count, parts], always the same."""
    return np.random.default_rng([parts, count]).integers(parts, size=(count, parts))
