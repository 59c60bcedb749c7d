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
from dsr_export.reports.wording import Row, decibels

ROLES = (("patch", "b"), ("register", "c"), ("outlier", "a"))
LISTED = 12
NAN = float("nan")


def int8_section(report: Row) -> Section | None:
    """None for other precisions."""
    found = report.get("int8")
    if not found or not found.get("gemms"):
        return None
    gemms = found["gemms"]
    charts = [_snr(gemms), _ranges(gemms), _clipped(gemms)]
    said = (
        f"{sum(gemm['precision'] == 'int8' for gemm in gemms)} of {len(gemms)} GEMMs compute in INT8, "
        f"{_percent(found['int8_flops_share'])} of the FLOPs; ranges by {found['method']}. "
        f"The most sensitive stay in FP16 until the output keeps {number(found['budget_snr_db'], 'g')} dB."
    )
    return Section("INT8", said, joined([row(*(each for each in charts if each is not None)), _ranking(gemms)]))


def _snr(gemms: Sequence[Row]) -> Markup | None:
    """Each GEMM's own output, by plain ranges and by those chosen."""
    series = [
        Series(name, style, range(len(gemms)), [as_float(gemm.get("snr_db", {}).get(key)) for gemm in gemms])
        for name, style, key in (("minimum and maximum", "a", "minmax"), ("chosen", "b", "chosen"))
    ]
    chart = curves(series, [gemm["name"] for gemm in gemms], x_label="GEMM", y_label="SNR, dB")
    return figure(joined([legend(series), chart]), title="SNR of each GEMM in INT8")


def _ranges(gemms: Sequence[Row]) -> Markup | None:
    """Largest magnitudes of the GEMMs' inputs."""
    found = [(role, style, [_amax(gemm, role) for gemm in gemms]) for role, style in ROLES]
    series = [
        Series(f"{role} tokens", style, range(len(gemms)), values)
        for role, style, values in found
        if any(math.isfinite(value) for value in values)
    ]
    if not series:
        return None
    chart = curves(series, [gemm["name"] for gemm in gemms], x_label="GEMM", y_label="largest |x|", kind="log")
    return figure(joined([legend(series), chart]), title="Input ranges by kind of token")


def _amax(gemm: Row, role: str) -> float:
    stats = gemm.get("roles", {}).get(role)
    return NAN if not stats or not stats.get("count", 1) else as_float(stats.get("amax"))


def _clipped(gemms: Sequence[Row]) -> Markup | None:
    values = [100 * as_float(gemm.get("clipped")) for gemm in gemms]
    if not any(value > 0 for value in values):
        return None
    names = [gemm["name"] for gemm in gemms]
    return figure(bars(values, names, y_label="clipped values, %", x_label="GEMM"), title="Values beyond the range")


def _ranking(gemms: Sequence[Row]) -> Markup:
    """The most sensitive first: with it alone in INT8, the output has the lowest SNR."""
    ranked = sorted(gemms, key=_sensitivity)
    shown = _table(ranked[:LISTED], gemms)
    caption = "Sensitivity is the output's SNR with this GEMM alone in INT8: the shorter the bar, the more it costs."
    top = figure(shown, title="Sensitivity, worst first", caption=caption)
    if len(ranked) <= LISTED:
        return top
    all_of_them = figure(_table(ranked, gemms))
    return joined([top, element("details", element("summary", text(f"All {len(ranked)} GEMMs")), all_of_them)])


def _sensitivity(gemm: Row) -> float:
    """What was not measured comes last."""
    found = gemm.get("sensitivity_db")
    return found if is_known(found) else math.inf


def _percent(part: float | None) -> str:
    return percent(part) if is_known(part) else DASH


def _table(ranked: Sequence[Row], gemms: Sequence[Row]) -> Markup:
    best, largest = (
        max(known(gemm.get(key) for gemm in gemms), default=0.0) for key in ("sensitivity_db", "flops_share")
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


def _row(gemm: Row, best: float, largest: float) -> list[Markup]:
    sensitivity, flops = gemm.get("sensitivity_db"), gemm.get("flops_share")
    snr = gemm.get("snr_db", {})
    return [
        name_cell(gemm["name"]),
        text(str(gemm["precision"]).upper()),
        bar_cell(share(sensitivity, best), decibels(sensitivity)),
        bar_cell(share(flops, largest), _percent(flops)),
        text(gemm.get("rows", "none")),
        text(decibels(snr.get("minmax"))),
        text(decibels(snr.get("chosen"))),
        text(_percent(gemm.get("clipped"))),
    ]
