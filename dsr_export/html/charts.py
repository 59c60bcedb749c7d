"""Charts as inline SVG: histogram, lines, heat map. Colours are the page's, so that they follow light and dark.

Series take the style classes `a` (solid), `b` (dashed) and `c` (dotted), so that no chart depends on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.html.axes import Axis, bare_percent, every
from dsr_export.html.frames import BOTTOM, LEFT, RIGHT, TOP, captions, frame, svg, turned, vertical
from dsr_export.html.markup import Markup, element, joined, text

Array = npt.NDArray[Any]
HEAT_LEFT, HEAT_TOP = 44.0, 8.0


@dataclass(frozen=True)
class Series:
    """One curve: its name in the legend, its style class, and its points."""

    name: str
    style: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Mark:
    """A dashed vertical line with a word."""

    x: float
    name: str


def legend(series: Sequence[Series]) -> Markup:
    """One entry for each curve, drawn as it is."""
    return element("div", *(element("span", _sample(s.style), text(s.name)) for s in series), class_="legend")


def histogram(
    series: Sequence[Series], *, x_label: str, y_label: str, marks: Sequence[Mark] = (), width: float = 460
) -> Markup:
    """Counts `y[i] >= 1` of bins between `x[i]` and `x[i + 1]` (one more x than y), both axes logarithmic.

    Empty bins leave a gap in the outline: these gaps are what the reader looks for.
    """
    height = 260.0
    xs = [x for s in series for x in s.x] + [mark.x for mark in marks]
    tallest = max((y for s in series for y in s.y), default=1.0)
    across = Axis(min(xs), max(xs), LEFT, width - RIGHT, "log")
    up = Axis(0.8, max(tallest * 1.5, 10.0), height - BOTTOM, TOP, "log")
    parts = [frame(across, up, x_label, y_label)]
    for s in series:
        parts += [_steps(s, across, up)]
    parts += [_mark(mark, across, up) for mark in marks]
    return svg(width, height, parts, f"{y_label} over {x_label}")


def lines(
    series: Sequence[Series], *, x_label: str, y_label: str, width: float = 460, marks: Sequence[Mark] = ()
) -> Markup:
    """Curves over a linear axis; the vertical one starts at 0."""
    height = 240.0
    across = Axis(min(min(s.x) for s in series), max(max(s.x) for s in series), LEFT, width - RIGHT)
    top = max((y for s in series for y in s.y), default=1.0)
    up = Axis(0.0, top * 1.08 if top > 0 else 1.0, height - BOTTOM, TOP)
    parts = [frame(across, up, x_label, y_label)]
    for s in series:
        points = " ".join(f"{across.place(x):.1f},{up.place(y):.1f}" for x, y in zip(s.x, s.y, strict=True))
        parts.append(element("polyline", points=points, class_=f"line {s.style}"))
    parts += [_mark(mark, across, up) for mark in marks]
    return svg(width, height, parts, f"{y_label} over {x_label}")


def bars(values: Sequence[float], names: Sequence[str], *, y_label: str, x_label: str, width: float = 460) -> Markup:
    """One bar each, from 0; none for what is no finite number."""
    height, finite = 220.0, [value for value in values if math.isfinite(value)]
    up = Axis(0.0, max([*finite, 0.0]) * 1.08 or 1.0, height - BOTTOM, TOP)
    across = Axis(-0.5, len(values) - 0.5, LEFT, width - RIGHT)
    broad = 8 * max((len(name) for name in names), default=1) + 8  # a label's width
    slot = (width - LEFT - RIGHT) / max(len(values), 1)
    shown = every(len(values), min(14, max(1, int((width - LEFT - RIGHT) / broad))))
    counts = all(float(value).is_integer() for value in finite)
    parts = [vertical(up, across, y_label, whole=counts), captions(across, up, x_label)]
    for i, (value, name) in enumerate(zip(values, names, strict=True)):
        if math.isfinite(value):
            left, top = across.place(i) - 0.36 * slot, up.place(value)
            tip = element("title", text(f"{name}: {value:.4g}"))
            size = {"width": 0.72 * slot, "height": up.start - top}
            parts.append(element("rect", tip, x=left, y=top, class_="bar", **size))
        if i % shown == 0:
            parts.append(element("text", text(name), x=across.place(i), y=up.start + 16, text_anchor="middle"))
    return svg(width, height, parts, f"{y_label} by {x_label}")


def heat_map(
    values: Array,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    x_label: str,
    y_label: str,
    highest: float,
    words: Callable[[float], str] = bare_percent,
) -> Markup:
    """Values [rows, columns] in [0, highest] as cells, with their words in them (the unit is the title's)."""
    wide, tall = 26.0, 22.0
    width, height = HEAT_LEFT + wide * len(columns) + 8, HEAT_TOP + tall * len(rows) + BOTTOM
    parts = [_cell(float(values[i, j]), i, j, wide, tall, highest, words) for i, j in np.ndindex(*values.shape)]
    broad = max(26, 8 * max(len(name) for name in columns))  # a label's width
    step_y, step_x = every(len(rows), 30), every(len(columns), int(wide * len(columns) / broad))
    for i in range(0, len(rows), step_y):
        y = HEAT_TOP + (i + 0.5) * tall + 4
        parts.append(element("text", text(rows[i]), x=HEAT_LEFT - 6, y=y, text_anchor="end"))
    for j in range(0, len(columns), step_x):
        x = HEAT_LEFT + (j + 0.5) * wide
        parts.append(element("text", text(columns[j]), x=x, y=HEAT_TOP + tall * len(rows) + 15, text_anchor="middle"))
    middle = HEAT_LEFT + wide * len(columns) / 2
    parts.append(element("text", text(x_label), x=middle, y=height - 8, text_anchor="middle"))
    parts.append(turned(y_label, 12, HEAT_TOP + tall * len(rows) / 2))
    return svg(width, height, parts, f"{y_label} by {x_label}", fixed=True)


def _cell(
    value: float, i: int, j: int, wide: float, tall: float, highest: float, words: Callable[[float], str]
) -> Markup:
    box = {"x": HEAT_LEFT + j * wide + 1, "y": HEAT_TOP + i * tall + 1, "width": wide - 2, "height": tall - 2, "rx": 2}
    share = min(value / highest, 1.0) if highest > 0 else 0.0
    parts = [element("rect", class_="cell", **box)]
    if value > 0:
        tip = element("title", text(words(value)))
        parts.append(element("rect", tip, class_="heat", fill_opacity=0.15 + 0.75 * share, **box))
        place = {"x": box["x"] + wide / 2 - 1, "y": box["y"] + tall / 2 + 3}
        parts.append(element("text", text(words(value)), class_="value", text_anchor="middle", **place))
    return joined(parts)


def _steps(series: Series, across: Axis, up: Axis) -> Markup:
    """The outline of each run of filled bins, and the area under it."""
    outline, floor = [], up.place(up.low)
    run: list[str] = []
    for i, count in enumerate([*series.y, 0]):
        if count >= 1:
            y = up.place(count)
            left, right = across.place(series.x[i]), across.place(series.x[i + 1])
            run += [f"{left:.1f},{y:.1f}", f"{right:.1f},{y:.1f}"]
        elif run:
            ends = f"{run[0].split(',')[0]},{floor:.1f}", f"{run[-1].split(',')[0]},{floor:.1f}"
            points = " ".join([ends[0], *run, ends[1]])
            outline.append(element("polyline", points=points, class_=f"area {series.style}"))
            outline.append(element("polyline", points=points, class_=f"line {series.style}"))
            run = []
    return joined(outline)


def _mark(mark: Mark, across: Axis, up: Axis) -> Markup:
    x = across.place(mark.x)
    anchor = "end" if x > (across.start + across.end) / 2 else "start"
    shift = -6 if anchor == "end" else 6
    line = element("line", x1=x, x2=x, y1=up.start, y2=up.end - 4, class_="mark")
    return joined(
        [line, element("text", text(mark.name), x=x + shift, y=up.end + 6, text_anchor=anchor, class_="marktext")]
    )


def _sample(style: str) -> Markup:
    line = element("line", x1=0, x2=26, y1=6, y2=6, class_=f"line {style}")
    return element("svg", line, width=26, height=12, aria_hidden="true")
