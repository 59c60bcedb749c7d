"""What was quantised, at what cost: SNR by GEMM, ranges by kind of token, clipping, and the sensitivity ranking."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dsr_export.html.axes import percent
from dsr_export.html.cells import bar_cell, name_cell, rich_table
from dsr_export.html.charts import Series, bars, legend
from dsr_export.html.curves import curves
from dsr_export.html.markup import Markup, element, joined, text
from dsr_export.html.page import Section, figure, row
from dsr_export.reports.figures import DASH, as_float, is_known, known, number, share
from dsr_export.reports.reading import Entry, entries, mapping, number_in, text_in, words
from dsr_export.reports.record import Report
from dsr_export.reports.wording import decibels

ROLES = (
    ("patch tokens", "b", ("patch",)),
    ("register tokens", "c", ("register",)),
    ("outlier tokens", "a", ("outlier",)),
    ("corners, first frames, padding", "d", ("corner", "first frame", "padding")),
)
LISTED = 12
NAN = float("nan")


def int8_section(report: Report) -> Section | None:
    """None for other precisions."""
    found = report.section("int8")
    gemms = [] if found is None else entries(found, "gemms")
    if found is None or not gemms:
        return None
    charts = [_snr(gemms), _ranges(gemms), _clipped(gemms)]
    said = (
        f"{sum(words(gemm, 'precision') == 'int8' for gemm in gemms)} of {len(gemms)} GEMMs compute in INT8, "
        f"{_percent(number_in(found, 'int8_flops_share'))} of the FLOPs; ranges by {words(found, 'method') or DASH}. "
        f"The most sensitive stay in FP16 until the output keeps {number(number_in(found, 'budget_snr_db'), 'g')} dB."
    )
    return Section("INT8", said, joined([row(*(each for each in charts if each is not None)), _ranking(gemms)]))


def _snr(gemms: Sequence[Entry]) -> Markup | None:
    """Each GEMM's own output, by plain ranges and by those chosen."""
    series = [
        Series(name, style, range(len(gemms)), [as_float(_snr_db(gemm, key)) for gemm in gemms])
        for name, style, key in (("minimum and maximum", "a", "minmax"), ("chosen", "b", "chosen"))
    ]
    chart = curves(series, [text_in(gemm, "name") for gemm in gemms], x_label="GEMM", y_label="SNR, dB")
    return figure(joined([legend(series), chart]), title="SNR of each GEMM in INT8")


def _ranges(gemms: Sequence[Entry]) -> Markup | None:
    """Largest magnitudes of the GEMMs' inputs."""
    found = [(name, style, [_largest(gemm, roles) for gemm in gemms]) for name, style, roles in ROLES]
    series = [
        Series(name, style, range(len(gemms)), values)
        for name, style, values in found
        if any(math.isfinite(value) for value in values)
    ]
    if not series:
        return None
    chart = curves(series, [text_in(gemm, "name") for gemm in gemms], x_label="GEMM", y_label="largest |x|", kind="log")
    return figure(joined([legend(series), chart]), title="Input ranges by kind of token")


def _largest(gemm: Entry, roles: Sequence[str]) -> float:
    return max((value for role in roles if math.isfinite(value := _amax(gemm, role))), default=NAN)


def _amax(gemm: Entry, role: str) -> float:
    roles = mapping(gemm, "roles") if gemm.values.get("roles") else Entry(gemm.at, {})
    stats = mapping(roles, role) if roles.values.get(role) else Entry(gemm.at, {})
    return NAN if not stats.values.get("count", 1) else as_float(number_in(stats, "amax"))


def _snr_db(gemm: Entry, ranges: str) -> float | None:
    """Of the GEMM's own output, by the ranges named."""
    return number_in(mapping(gemm, "snr_db"), ranges) if gemm.values.get("snr_db") else None


def _clipped(gemms: Sequence[Entry]) -> Markup | None:
    values = [100 * as_float(number_in(gemm, "clipped")) for gemm in gemms]
    if not any(value > 0 for value in values):
        return None
    names = [text_in(gemm, "name") for gemm in gemms]
    return figure(bars(values, names, y_label="clipped values, %", x_label="GEMM"), title="Values beyond the range")


def _ranking(gemms: Sequence[Entry]) -> Markup:
    """The most sensitive first: with it alone in INT8, the output has the lowest SNR."""
    ranked = sorted(gemms, key=_sensitivity)
    shown = _table(ranked[:LISTED], gemms)
    caption = "Sensitivity is the output's SNR with this GEMM alone in INT8: the shorter the bar, the more it costs."
    top = figure(shown, title="Sensitivity, worst first", caption=caption)
    if len(ranked) <= LISTED:
        return top
    all_of_them = figure(_table(ranked, gemms))
    return joined([top, element("details", element("summary", text(f"All {len(ranked)} GEMMs")), all_of_them)])


def _sensitivity(gemm: Entry) -> float:
    """What was not measured comes last."""
    found = number_in(gemm, "sensitivity_db")
    return found if is_known(found) else math.inf


def _percent(part: float | None) -> str:
    return percent(part) if is_known(part) else DASH


def _table(ranked: Sequence[Entry], gemms: Sequence[Entry]) -> Markup:
    best, largest = (
        max(known(number_in(gemm, key) for gemm in gemms), default=0.0) for key in ("sensitivity_db", "flops_share")
    )
    header = (
        "GEMM",
        "precision",
        "sensitivity, dB",
        "FLOPs",
        "row scales",
        "SNR by min/max",
        "SNR as chosen",
        "clipped",
    )
    return rich_table(header, [_row(gemm, best, largest) for gemm in ranked])


def _row(gemm: Entry, best: float, largest: float) -> list[Markup]:
    sensitivity, flops = number_in(gemm, "sensitivity_db"), number_in(gemm, "flops_share")
    return [
        name_cell(text_in(gemm, "name")),
        text((words(gemm, "precision") or DASH).upper()),
        bar_cell(share(sensitivity, best), decibels(sensitivity)),
        bar_cell(share(flops, largest), _percent(flops)),
        text(words(gemm, "rows") or "none"),
        text(decibels(_snr_db(gemm, "minmax"))),
        text(decibels(_snr_db(gemm, "chosen"))),
        text(_percent(number_in(gemm, "clipped"))),
    ]
