"""The table of methods: in the terminal, as JSON, and as a page with the same pictures under each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dsr_export.diagnosis.record import rounded
from dsr_export.evaluation.features.extractor import as_rgb
from dsr_export.evaluation.joined_parts import SHOWN
from dsr_export.evaluation.method_engines import ESTIMATED, engine_dict, engine_figures
from dsr_export.evaluation.methods import MethodResult
from dsr_export.evaluation.results import line_dict
from dsr_export.evaluation.summary import Line
from dsr_export.evaluation.treatments import METHODS, NONE
from dsr_export.evaluation.wording import figure as figure_text
from dsr_export.evaluation.wording import name
from dsr_export.html.axes import percent
from dsr_export.html.markup import Markup, element
from dsr_export.html.page import Section, Verdict, figure, page, row, table
from dsr_export.html.rasters import data_uri
from dsr_export.images.thumbnails import enlarged

PICTURES = 10  # of each method


def methods_dict(found: Sequence[MethodResult]) -> dict[str, Any]:
    """JSON values: by method its metrics, whose differences are to `none`; its outliers' share; and its engine."""
    return {
        "methods": {each.method: {line.metric.name: line_dict(line) for line in each.lines} for each in found},
        "outliers": {each.method: None if each.outliers is None else rounded(each.outliers) for each in found},
        "engines": {each.method: engine_dict(each.engine) for each in found if each.engine is not None},
    }


def method_lines(found: Sequence[MethodResult]) -> list[str]:
    """For the terminal."""
    made = ["differences are to `none`; ± is half of a 95 % interval"]
    made += [ESTIMATED] if found[0].engine is not None else []
    for each in found:
        figures = [f"{name(line.metric)} {_figure(each, line)}" for line in each.lines]
        figures += [f"outliers {_outliers(each)}"] if each.outliers is not None else []
        figures += [f"{title} {value}" for title, value in engine_figures(each.engine)]
        made.append(f"{each.method:<10} {', '.join(figures)}")
    return made


def methods_page(found: Sequence[MethodResult]) -> str:
    """The whole document."""
    costs = [title for title, _ in engine_figures(found[0].engine)]
    header = ("", *(name(line.metric) for line in found[0].lines), "outlier tokens", *costs)
    rows = [
        (each.method, *(_figure(each, line) for line in each.lines), _outliers(each), *_costs(each)) for each in found
    ]
    explanation = "In brackets the difference to `none`, of the same noise; behind ± is half of a 95 % interval."
    explanation += f" {ESTIMATED}." if costs else ""
    figures = Section("Figures", explanation, row(figure(table(header, rows)), wide=True))
    strips = row(*(figure(_strip(each), title=f"{each.method}: {METHODS[each.method]}") for each in found), wide=True)
    pictures = Section("Pictures", "The first pictures, from the same noise under each method.", strips)
    verdict = Verdict(tone="good", headline="What can be done to outlier tokens, and what it does to the pictures")
    return page("Methods compared", verdict, [], [figures, pictures], "Made by")


def _figure(of: MethodResult, line: Line) -> str:
    said = figure_text(line.value)
    return said if of.method == NONE else f"{said} ({figure_text(line.difference, signed=True)})"


def _outliers(of: MethodResult) -> str:
    return "" if of.outliers is None else percent(of.outliers)


def _costs(of: MethodResult) -> list[str]:
    return [value for _, value in engine_figures(of.engine)]


def _strip(of: MethodResult) -> Markup:
    shown = np.concatenate([part[f"{SHOWN}candidate"] for part in of.parts])[:PICTURES]
    sheet = np.concatenate(list(as_rgb(enlarged(shown))), axis=1)
    return element("img", src=data_uri(sheet), alt=of.method, style="max-width: 100%; image-rendering: pixelated")
