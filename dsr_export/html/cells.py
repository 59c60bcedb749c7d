"""Tables whose cells are more than words: verdicts, and bars that show a share of the longest."""

from __future__ import annotations

from collections.abc import Sequence

from dsr_export.html.markup import Markup, element, joined, text


def rich_table(header: Sequence[str], rows: Sequence[Sequence[Markup]]) -> Markup:
    """A table; the first cell of each row is its heading."""
    head = element("tr", *(element("th", text(name), scope="col") for name in header))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", each) for each in rest))
        for first, *rest in rows
    ]
    return element("table", element("thead", head), element("tbody", *body))


def name_cell(name: str) -> Markup:
    """A name like a path, which may break behind its slashes where the screen is narrow."""
    first, *rest = name.split("/")
    return joined([text(first), *(joined([text("/"), element("wbr"), text(part)]) for part in rest)])


def words(*values: object) -> list[Markup]:
    """Plain cells."""
    return [text(value) for value in values]


def verdict_cell(passed: bool) -> Markup:
    """In words as well as in colour."""
    return element("span", text("passed" if passed else "FAILED"), class_="good" if passed else "bad")


def bar_cell(share: float, label: str) -> Markup:
    """A bar of `share` in [0, 1] of the cell, with its figure beside it."""
    width = f"width:{100 * min(max(share, 0.0), 1.0):.1f}%"
    bar = element("span", element("span", class_="fill", style=width), class_="track", aria_hidden="true")
    return element("span", bar, element("span", text(label), class_="amount"), class_="barcell")
