"""What is around the curves and bars of a chart: its box, grid, ticks and captions."""

from __future__ import annotations

from collections.abc import Sequence

from dsr_export.html.axes import Axis, label
from dsr_export.html.markup import Markup, element, joined, text

LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 22.0, 42.0


def frame(across: Axis, up: Axis, x_label: str, y_label: str) -> Markup:
    """Grid, ticks of both axes, and their captions."""
    ticks = [
        element("text", text(label(x)), x=across.place(x), y=up.start + 16, text_anchor="middle")
        for x in across.ticks()
    ]
    return joined([vertical(up, across, y_label), *ticks, captions(across, up, x_label)])


def vertical(up: Axis, across: Axis, y_label: str, *, whole: bool = False) -> Markup:
    """The horizontal grid with its labels; `whole` leaves out ticks between whole numbers."""
    parts = []
    for y in up.ticks():
        if whole and y != int(y):
            continue
        place = up.place(y)
        parts.append(element("line", x1=across.start, x2=across.end, y1=place, y2=place, class_="grid"))
        parts.append(element("text", text(label(y)), x=across.start - 7, y=place + 4, text_anchor="end"))
    return joined([*parts, turned(y_label, 12, (up.start + up.end) / 2)])


def captions(across: Axis, up: Axis, x_label: str) -> Markup:
    """The lower axis line, and what it shows."""
    line = element("line", x1=across.start, x2=across.end, y1=up.start, y2=up.start, class_="axis")
    middle = (across.start + across.end) / 2
    return joined([line, element("text", text(x_label), x=middle, y=up.start + 35, text_anchor="middle")])


def turned(words: str, x: float, y: float) -> Markup:
    """A word along the vertical axis."""
    return element("text", text(words), text_anchor="middle", transform=f"translate({x:.1f} {y:.1f}) rotate(-90)")


def svg(width: float, height: float, parts: Sequence[Markup], name: str, *, fixed: bool = False) -> Markup:
    """Fixed in size, or as wide as its figure."""
    box, fluid = f"0 0 {width:.0f} {height:.0f}", None if fixed else "fluid"
    size = {"width": width, "height": height} if fixed else {}
    return element("svg", *parts, viewBox=box, role="img", aria_label=name, class_=fluid, **size)
