"""Scales and their ticks: from values to places on a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Axis:
    """Maps [low, high] to places from `start` to `end`; `log` maps logarithms, and needs low > 0."""

    low: float
    high: float
    start: float
    end: float
    kind: Literal["linear", "log"] = "linear"

    def place(self, value: float) -> float:
        """Where `value` stands; values outside stand at the nearest end."""
        bounded = min(max(value, self.low), self.high)
        low, high, here = (self._warped(v) for v in (self.low, self.high, bounded))
        share = (here - low) / (high - low) if high > low else 0.0
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """A few round values within the axis."""
        wide = self.kind == "log" and self.high > 5 * self.low  # over less, 1, 2, 5 would leave a tick or two
        return _log_ticks(self.low, self.high) if wide else _linear_ticks(self.low, self.high)

    def _warped(self, value: float) -> float:
        return math.log(value) if self.kind == "log" else value


def label(value: float) -> str:
    """A tick's text: 1000 as 1k, and no trailing zeros."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{unit}"
    return f"{value:.4g}"


def percent(share: float) -> str:
    """A share as a percentage with two significant digits; only nothing at all is 0 %."""
    if share == 0:
        return "0 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


def bare_percent(share: float) -> str:
    """As `percent`, without the sign: for cells of a table that has it in its title."""
    return percent(share).removesuffix(" %")


def every(count: int, most: int) -> int:
    """Which of `count` labels to show, so that there are no more than `most`: each first, second, ..."""
    least = -(-count // max(most, 1))
    return next((step for step in (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 50, 64, 100) if step >= least), least)


def spans(layers: Sequence[int]) -> str:
    """Ascending numbers in words: `0-3, 7`, with an en dash."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}\N{EN DASH}{run[-1]}" for run in runs)


def _linear_ticks(low: float, high: float) -> list[float]:
    if not high > low:
        return [low]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten over many decades; 1, 2, 5 over few."""
    factors = (1,) if high / low > 2e3 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [f * 10.0**p for p in powers for f in factors if low * 0.999 <= f * 10.0**p <= high * 1.001]
