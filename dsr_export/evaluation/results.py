"""What an evaluation found, and as JSON: no times and no paths, so that the same pictures give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dsr_export.bundle.reader import Bundle
from dsr_export.evaluation.gate import Ruling
from dsr_export.evaluation.joined_parts import PAIRS, SHOWN, worst_by
from dsr_export.evaluation.summary import Interval, Line

if TYPE_CHECKING:
    from dsr_export.evaluation.evaluate import Asked
    from dsr_export.subject import Subject

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ShownPicture:
    """A picture [H, W, C] uint8, beside the reference's where there is one, and how far they differ: `by` what."""

    index: int
    picture: Array
    reference: Array | None = None
    distance: float | None = None
    by: str = ""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures, what the limits say of them, and the measured parts they come from."""

    bundle: Bundle
    reference: Bundle | Subject | None
    asked: Asked
    lines: tuple[Line, ...]
    rulings: tuple[Ruling, ...]
    parts: Sequence[Mapping[str, Array]] = field(repr=False)

    @property
    def passed(self) -> bool:
        return all(ruling.passed for ruling in self.rulings)

    @property
    def identical(self) -> int | None:
        """How many pictures equal the reference's to the last bit; None without a reference."""
        errors = [each[f"{PAIRS}squared_error"] for each in self.parts if f"{PAIRS}squared_error" in each]
        return int(sum((each == 0).sum() for each in errors)) if errors else None

    def worst(self, most: int) -> list[ShownPicture]:
        """Pictures from worst to best, by LPIPS or else by the squared error; without a reference the first ones."""
        found = [each for part in self.parts for each in _shown(part)]
        found.sort(key=lambda each: (-(each.distance or 0.0), each.index))
        return found[:most]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        drawn = self.asked.drawn
        return {
            "bundle": _side(self.bundle),
            "reference": None if self.reference is None else _side(self.reference),
            "count": self.asked.count,
            "seed": drawn.seed,
            "steps": drawn.steps,
            "guidance": drawn.guidance,
            "prompts": len(drawn.prompts),
            "metrics": {line.metric.name: line_dict(line) for line in self.lines},
            "identical_pictures": self.identical,
            "limits": [_ruling(ruling) for ruling in self.rulings],
            "passed": self.passed,
        }


def _shown(part: Mapping[str, Array]) -> list[ShownPicture]:
    indices, pictures = part[f"{SHOWN}index"], part[f"{SHOWN}candidate"]
    others = part.get(f"{SHOWN}reference")
    if others is None:
        return [ShownPicture(int(i), picture) for i, picture in zip(indices, pictures, strict=True)]
    pairs = {name.removeprefix(PAIRS): value for name, value in part.items() if name.startswith(PAIRS)}
    by = worst_by(pairs)
    first = int(np.asarray(part["first"]))
    return [
        ShownPicture(int(i), picture, other, float(pairs[by][int(i) - first]), by)
        for i, picture, other in zip(indices, pictures, others, strict=True)
    ]


def _side(of: Bundle | Subject) -> dict[str, Any]:
    if isinstance(of, Bundle):
        return {"name": of.manifest.name, "precision": of.manifest.precision, "digest": of.manifest.digest}
    return {"name": of.name, "precision": "fp32", "digest": None}


def line_dict(line: Line) -> dict[str, Any]:
    """JSON values of a metric's figures."""
    found = {"better": "higher" if line.metric.higher else "lower", **_interval(line.value)}
    for name in ("reference", "difference"):
        interval = getattr(line, name)
        found[name] = None if interval is None else _interval(interval)
    return found


def _interval(interval: Interval) -> dict[str, Any]:
    half = interval.half_width
    ends = (None, None) if half is None else (interval.value - half, interval.value + half)
    return {"value": interval.value, "low": ends[0], "high": ends[1]}


def _ruling(ruling: Ruling) -> dict[str, Any]:
    limit = ruling.limit
    return {
        "limit": limit.said,
        "metric": limit.metric.name,
        "bound": ruling.bound,
        "value": ruling.value,
        "passed": ruling.passed,
    }
