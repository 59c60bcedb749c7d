"""FP16 range audit: how large every tensor gets, and how small those by which others are divided.

A CPU runtime that computes FP16 ops in FP32 hides overflow. A tensor within `HEADROOM` of either end of FP16's range of
full precision stays FP32: a calibration run is a sample, and inputs it never saw may go further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from graphs.observe.probes import LARGEST, ProbedTensor
from graphs.precisions import HALF, HEADROOM, PRECISIONS, Precision

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RangeAudit:
    """Largest magnitude of each tensor over `runs` model calls; `sums` likewise, inside means and norms.

    `least`: the smallest magnitude but zero of each tensor that is a divisor. `products`: the result of a GEMM -> what
    |a| . |w|, or a bound of it, reached: no partial sum is beyond.
    """

    maxima: Mapping[str, float]
    sums: Mapping[str, float]
    runs: int
    least: Mapping[str, float] = field(default_factory=dict)
    products: Mapping[str, float] = field(default_factory=dict)

    def wide_tensors(self, precision: Precision) -> dict[str, str]:
        """Tensor -> why the low type of `precision` can't hold it. BF16 has FP32's range."""
        if not PRECISIONS[precision].narrow:
            return {}
        held = PRECISIONS[precision].held
        low, high = held.least * HEADROOM, held.largest / HEADROOM
        found = {name: f"divisor down to {value:.4g}" for name, value in self.least.items() if value < low}
        found |= {name: f"|x| stays below {value:.4g}" for name, value in self.maxima.items() if 0 < value < low}
        found |= {name: f"sums of |a|.|w| reach {value:.4g}" for name, value in self.products.items() if value > high}
        return found | {name: f"|x| reaches {value:.4g}" for name, value in self.maxima.items() if value > high}

    def long_sums(self) -> list[str]:
        """Results of GEMMs whose partial sums may leave FP16 where it is also the accumulator."""
        return [name for name, value in self.products.items() if value > HALF.largest / HEADROOM]

    def with_products(self, exact: Mapping[str, float]) -> RangeAudit:
        """The same, with `exact` in place of bounds."""
        return replace(self, products={**self.products, **exact})

    def as_dict(self) -> dict[str, Any]:
        """For the report: limits, verdicts, and the ten widest of each kind."""
        return {
            "limit": HALF.largest / HEADROOM,
            "runs": self.runs,
            "tensors": len(self.maxima),
            "kept_fp32": self.wide_tensors("fp16"),
            "widest": _top(self.maxima),
            "widest_sums": _top(self.sums),
            "widest_products": _top(self.products),
        }


class RangeRecorder:
    """Collects probe outputs run by run; memory does not grow with the number of runs."""

    def __init__(self, tensors: Sequence[ProbedTensor]) -> None:
        self._tensors = list(tensors)
        self._smallest = np.array([tensor.statistic == "least" for tensor in tensors])
        self._found = np.where(self._smallest, np.inf, 0.0)
        self._runs = 0

    def observe(self, ranges: Array) -> None:
        """Takes the probe's output of one run. What is NaN or infinite inside was left out there."""
        self._found = np.where(self._smallest, np.minimum(self._found, ranges), np.maximum(self._found, ranges))
        self._runs += 1

    def audit(self) -> RangeAudit:
        """What was seen so far."""
        pairs = list(zip(self._tensors, self._found.tolist(), strict=True))
        sums = {t.name: t.scale * value**t.power for t, value in pairs if t.statistic == "sum"}
        least = {t.name: value for t, value in pairs if t.statistic == "least" and value < LARGEST}
        products = {t.name: t.scale * value for t, value in pairs if t.statistic.startswith("product")}
        maxima = {t.name: value for t, value in pairs if t.statistic in ("value", "sum")}
        return RangeAudit(maxima, sums, self._runs, least, products)


def _top(values: Mapping[str, float], count: int = 10) -> dict[str, float]:
    widest = sorted(values.items(), key=lambda item: -item[1])[:count]
    return {name: float(f"{value:.6g}") for name, value in widest}
