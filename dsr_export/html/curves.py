"""Curves over named places (layers, sites, steps), with levels to hold them against; points say what they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dsr_export.html.axes import Axis, every
from dsr_export.html.charts import Series
from dsr_export.html.frames import BOTTOM, LEFT, RIGHT, TOP, captions, svg, vertical
from dsr_export.html.markup import Markup, element, joined, text

HEIGHT, WIDTH = 240.0, 460.0
LETTER = 7.0  # what one is wide, at most
DOTTED = 80  # points; more would be one thick line


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line with a word."""

    y: float
    name: str


def curves(
    series: Sequence[Series],
    names: Sequence[str],
    *,
    x_label: str,
    y_label: str,
    low: float | None = None,
    high: float | None = None,
    levels: Sequence[Level] = (),
    kind: Literal["linear", "log"] = "linear",
) -> Markup:
    """Series whose `x` are places in `names`; values beyond `low` and `high` are drawn at the edge.

    Without bounds the axis holds every value and level, and 0 where it is linear. Values that are not finite, and
    those that a logarithmic axis has no place for, leave a gap.
    """
    up = _up(series, levels, low, high, kind)
    across = Axis(-0.5, len(names) - 0.5, LEFT, WIDTH - RIGHT)
    parts = [vertical(up, across, y_label), captions(across, up, x_label), _names(names, across, up)]
    parts += [_level(level, series, across, up) for level in levels]
    parts += [_curve(each, names, across, up) for each in series]
    return svg(WIDTH, HEIGHT, parts, f"{y_label} over {x_label}: {_summary(series)}")


def _up(series: Sequence[Series], levels: Sequence[Level], low: float | None, high: float | None, kind: str) -> Axis:
    values = [y for each in series for y in each.y if math.isfinite(y) and (kind == "linear" or y > 0)]
    values += [level.y for level in levels]
    if kind == "log":
        least, most = min(values, default=1.0), max(values, default=10.0)
        return Axis(low or least / 1.3, high or most * 1.3, HEIGHT - BOTTOM, TOP, "log")
    bottom = min([0.0, *values]) if low is None else low
    top = max([*values, bottom + 1e-9]) if high is None else high
    return Axis(bottom, bottom + (top - bottom) * 1.08, HEIGHT - BOTTOM, TOP)


def _names(names: Sequence[str], across: Axis, up: Axis) -> Markup:
    """As many as fit beside each other."""
    broad = 8 * max((len(name) for name in names), default=1) + 8
    step = every(len(names), max(1, int((across.end - across.start) / broad)))
    return joined(
        element("text", text(names[i]), x=_inside(across.place(i), names[i]), y=up.start + 16, text_anchor="middle")
        for i in range(0, len(names), step)
    )


def _inside(x: float, name: str) -> float:
    """The middle of a name, so far from the edge that none of it is cut off."""
    half = LETTER * len(name) / 2
    return max(half, min(x, WIDTH - half))


def _level(level: Level, series: Sequence[Series], across: Axis, up: Axis) -> Markup:
    """The word stands at the end from which the curves are farther."""
    y = up.place(level.y)
    gaps = [
        min((abs(s.y[i] - level.y) for s in series if len(s.y) and math.isfinite(s.y[i])), default=0.0) for i in (0, -1)
    ]
    x, anchor = (across.start + 4, "start") if gaps[0] > gaps[1] else (across.end, "end")
    line = element("line", x1=across.start, x2=across.end, y1=y, y2=y, class_="mark")
    words = element("text", text(level.name), x=x, y=y - 5, text_anchor=anchor, class_="marktext")
    return joined([line, words])


def _curve(series: Series, names: Sequence[str], across: Axis, up: Axis) -> Markup:
    parts: list[Markup] = []
    run: list[str] = []
    for x, y in zip(series.x, series.y, strict=True):
        if not math.isfinite(y) or (up.kind == "log" and y <= 0):
            parts += _line(run, series.style)
            run = []
            continue
        place = across.place(x), up.place(y)
        run.append(f"{place[0]:.1f},{place[1]:.1f}")
        if len(series.x) <= DOTTED:
            tip = element("title", text(f"{names[int(x)]}, {series.name}: {y:.4g}"))
            parts.append(element("circle", tip, cx=place[0], cy=place[1], r=2.5, class_=f"dot {series.style}"))
    return joined([*_line(run, series.style), *parts])


def _line(run: Sequence[str], style: str) -> list[Markup]:
    return [element("polyline", points=" ".join(run), class_=f"line {style}")] if len(run) > 1 else []


def _summary(series: Sequence[Series]) -> str:
    """For those who hear the page instead of seeing it."""
    ranges = [(each.name, [y for y in each.y if math.isfinite(y)]) for each in series]
    return "; ".join(f"{name} from {min(ys):.4g} to {max(ys):.4g}" for name, ys in ranges if ys)
