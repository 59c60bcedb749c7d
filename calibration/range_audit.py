"""FP16 range audit: the largest finite value of every tensor. A CPU runtime that computes FP16 ops in FP32 hides overflow.

A tensor within `HEADROOM` of FP16's largest value stays FP32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphs.artifacts import Precision
from graphs.probes import ProbedTensor

Array = npt.NDArray[Any]
LARGEST_HALF = 65504.0
HEADROOM = 4.0  # a calibration run is a sample; inputs it never saw may go further


@dataclass(frozen=True)
class RangeAudit:
    """Largest magnitude of each tensor over `runs` model calls; `sums` likewise, inside means and norms."""

    maxima: Mapping[str, float]
    sums: Mapping[str, float]
    runs: int

    def wide_tensors(self, precision: Precision) -> dict[str, str]:
        """Tensor -> why FP16 can't hold it. BF16 has FP32's range, so nothing is too wide for it."""
        if precision not in ("fp16", "int8"):
            return {}
        limit = LARGEST_HALF / HEADROOM
        return {name: f"|x| reaches {value:.4g}" for name, value in self.maxima.items() if value > limit}

    def as_dict(self) -> dict[str, Any]:
        """For the report: limits, verdicts, and the ten widest of each kind."""
        return {
            "limit": LARGEST_HALF / HEADROOM,
            "runs": self.runs,
            "tensors": len(self.maxima),
            "kept_fp32": self.wide_tensors("fp16"),
            "widest": _top(self.maxima),
            "widest_sums": _top(self.sums),
        }


class RangeRecorder:
    """Collects probe outputs run by run; memory does not grow with the number of runs."""

    def __init__(self, tensors: Sequence[ProbedTensor]) -> None:
        self._tensors = list(tensors)
        self._largest = np.zeros(len(tensors), np.float64)
        self._runs = 0

    def observe(self, ranges: Array) -> None:
        """Takes the probe's output of one run. What is NaN or infinite inside was left out there."""
        self._largest = np.maximum(self._largest, ranges)
        self._runs += 1

    def audit(self) -> RangeAudit:
        """What was seen so far."""
        pairs = list(zip(self._tensors, self._largest.tolist(), strict=True))
        sums = {t.name: t.scale * value**t.power for t, value in pairs if t.statistic == "sum"}
        return RangeAudit({t.name: value for t, value in pairs}, sums, self._runs)


def _top(values: Mapping[str, float], count: int = 10) -> dict[str, float]:
    widest = sorted(values.items(), key=lambda item: -item[1])[:count]
    return {name: float(f"{value:.6g}") for name, value in widest}
