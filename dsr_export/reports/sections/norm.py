"""Token norms in front of and behind each replacement site, on the patch grid, with what was replaced outlined."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.html.markup import Markup, element, joined, text
from dsr_export.html.page import Section, figure, row
from dsr_export.html.rasters import scale_bar, token_maps
from dsr_export.reports.figures import DASH, is_known
from dsr_export.reports.reading import Entry, entries, grid, numbers, words
from dsr_export.reports.record import Report

Array = npt.NDArray[Any]
SHOWN = 4  # sites; a model with one behind every block has 28


def norm_section(report: Report) -> Section | None:
    """None for a model without replacement sites."""
    found = report.section("token_norms")
    sites = [] if found is None else entries(found, "sites")
    if found is None or not sites:
        return None
    highest = max(_ordinary_peak(site) for site in sites)
    figures = [_figure(site, numbers(found, "times"), highest) for site in sites]
    rest = figures[SHOWN:]
    more = [element("details", element("summary", text(f"{len(rest)} more sites")), row(*rest))] if rest else []
    bar = scale_bar("0", f"{highest:.3g} and more", outlier="replaced as an outlier", outlined=True)
    said = (
        f"The L2 norm of every patch token in front of and behind each replacement site, for images of the golden "
        f"{words(found, 'case') or 'vectors'}. The colours end at the largest norm that was not replaced."
    )
    return Section("Token norms before and after replacement", said, joined([bar, row(*figures[:SHOWN]), *more]))


def _figure(site: Entry, times: list[float | None], highest: float) -> Markup:
    before, after, replaced = _arrays(site)
    rows = [f"t {time:.3g}" if is_known(time) else "" for time in times]
    if len(rows) != len(before):
        rows = [str(i + 1) for i in range(len(before))]
    maps = token_maps(
        np.stack([before, after], axis=1),
        np.stack([replaced, replaced], axis=1),
        highest=highest,
        rows=rows,
        columns=["before", "after"],
        x_label="",
        y_label="image",
        outlined=True,
    )
    return figure(maps, title=words(site, "site") or DASH, caption=_caption(before, after, replaced))


def _caption(before: Array, after: Array, replaced: Array) -> str:
    count = int(replaced.sum())
    if not count:
        return f"No token of {replaced.size} was replaced; the largest norm is {before.max():.4g}."
    return (
        f"{count} of {replaced.size} tokens replaced. Their largest norm was {before[replaced].max():.4g} and is "
        f"{after[replaced].max():.4g}; the largest of the others is {before[~replaced].max(initial=0.0):.4g}."
    )


def _arrays(site: Entry) -> tuple[Array, Array, Array]:
    """Norms before and after and what was replaced, each [images, tokens]; no figure means not finite."""
    before, after = (
        np.array([[norm if is_known(norm) else np.inf for norm in each] for each in grid(site, key)])
        for key in ("before", "after")
    )
    if before.shape != after.shape:
        site.refuse("after", "as many figures as before")
    replaced = np.zeros(before.shape, bool)
    for image, tokens in enumerate(_replaced(site, *before.shape)):
        replaced[image, tokens] = True
    return before, after, replaced


def _replaced(site: Entry, images: int, tokens: int) -> list[list[int]]:
    """Of each image, which tokens were replaced."""
    found = site.values.get("replaced", [])
    if not isinstance(found, list | tuple) or len(found) > images:
        site.refuse("replaced", f"the tokens of {images} images")
    listed = [
        [int(each) for each in numbers(Entry(site.at, {"replaced": row}), "replaced") if is_known(each)]
        for row in found
    ]
    if any(each not in range(tokens) for row in listed for each in row):
        site.refuse("replaced", f"tokens below {tokens}")
    return listed


def _ordinary_peak(site: Entry) -> float:
    before, _, replaced = _arrays(site)
    kept = before[~replaced & np.isfinite(before)]
    return float(kept.max()) if kept.size else 1.0
