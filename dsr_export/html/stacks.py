"""Bars of several parts, one to a row of a table: told apart by colour and by hatching, and by their words."""

from __future__ import annotations

from collections.abc import Sequence

from dsr_export.html.markup import Markup, element, text

STYLES = ("solid-b", "solid-a", "hatched-c", "dotted")
"""One for each part, in order."""


def stack_cell(parts: Sequence[tuple[float, str]], share: float) -> Markup:
    """Parts as (size, words) over `share` in [0, 1] of the cell; the words are shown where one points at a part."""
    whole = sum(size for size, _ in parts)
    shown = [
        element("span", class_=f"part {style}", style=f"width:{100 * size / whole:.2f}%", title=words)
        for (size, words), style in zip(parts, STYLES, strict=True)
        if size > 0
    ]
    width = f"width:{100 * min(max(share, 0.0), 1.0):.1f}%"
    return element("span", element("span", *shown, class_="stack", style=width), class_="stackcell")


def stack_legend(names: Sequence[str]) -> Markup:
    """What the parts are, in their order."""
    entries = (
        element("span", element("span", class_=f"swatch part {style}"), text(name))
        for name, style in zip(names, STYLES, strict=True)
    )
    return element("div", *entries, class_="legend")
