"""HTML and SVG as strings whose type says that they are escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import NewType

Markup = NewType("Markup", str)
"""Safe to put into a page. Made by `text`, `element` and `joined` alone."""

_VOID = frozenset({"br", "hr", "image", "img", "line", "meta", "path", "polyline", "rect", "use", "wbr"})


def text(value: object) -> Markup:
    """Any value as text, escaped."""
    return Markup(escape(str(value), quote=False))


def element(tag: str, *children: Markup, **attributes: object) -> Markup:
    """`<tag ...>children</tag>`. A trailing `_` of an attribute's name is dropped (`class_`), other `_` become `-`.

    An attribute that is None is left out. Numbers are written with two decimals at most.
    """
    pairs = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID and not children:
        return Markup(f"<{tag}{pairs}/>")
    return Markup(f"<{tag}{pairs}>{''.join(children)}</{tag}>")


def joined(parts: Iterable[Markup]) -> Markup:
    """Parts, one after the other."""
    return Markup("".join(parts))


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
