"""Limits on figures: what makes an evaluation fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dsr_export.errors import ExportError
from dsr_export.evaluation.metrics import Metric
from dsr_export.evaluation.metrics import metric as metric_of
from dsr_export.evaluation.summary import Line

Side = Literal["max", "min"]
_ROUNDING = 1e-12  # of a sum: 0.9 - 0.05 is more than 0.85


@dataclass(frozen=True)
class Limit:
    """`metric` is to be at most or at least `bound`; where it is `relative`, the reference's figure plus `bound`."""

    metric: Metric
    side: Side
    bound: float
    relative: bool

    @classmethod
    def parse(cls, side: Side, name: str, text: str) -> Limit:
        """From `NAME` and a number, with a sign for one that is relative. ExportError for anything else."""
        try:
            bound = float(text)
        except ValueError:
            bound = math.nan
        if not math.isfinite(bound):
            raise ExportError(f"--{side} {name}={text[:40]!r} has no number", hint=f"for example --{side} psnr=30")
        found = metric_of(name)
        relative = text.strip()[0] in "+-"
        if relative and found.kind == "pair":
            raise ExportError(
                f"--{side} {name}={text}: {found.title} is a distance to the reference already",
                hint=f"give a plain number: --{side} {name}={abs(bound):g}",
            )
        return cls(found, side, bound, relative)

    @property
    def said(self) -> str:
        """As it was given."""
        return f"--{self.side} {self.metric.name}={self.bound:{'+' if self.relative else ''}g}"


@dataclass(frozen=True)
class Ruling:
    """What a limit came to. A NaN passes none."""

    limit: Limit
    bound: float
    value: float

    @property
    def passed(self) -> bool:
        if self.limit.relative and math.isclose(self.value, self.bound, rel_tol=_ROUNDING):
            return True
        return self.value <= self.bound if self.limit.side == "max" else self.value >= self.bound


def check_limits(limits: Sequence[Limit], metrics: Sequence[Metric], *, paired: bool) -> None:
    """Raises ExportError for a limit on what is not measured, or relative to nothing."""
    asked = {metric.name for metric in metrics}
    for limit in limits:
        if limit.metric.name not in asked:
            raise ExportError(f"{limit.said}, and '{limit.metric.name}' is not measured", hint="add it to --metrics")
        if limit.relative and not paired:
            raise ExportError(f"{limit.said} is relative to a reference", hint="give --reference, or no sign")


def rulings(limits: Sequence[Limit], lines: Sequence[Line]) -> tuple[Ruling, ...]:
    """Each limit against its figure."""
    by_name = {line.metric.name: line for line in lines}
    return tuple(_ruling(limit, by_name[limit.metric.name]) for limit in limits)


def _ruling(limit: Limit, line: Line) -> Ruling:
    base = line.reference.value if limit.relative and line.reference is not None else 0.0
    return Ruling(limit, base + limit.bound, line.value.value)
