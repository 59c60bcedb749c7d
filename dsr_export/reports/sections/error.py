"""Where the error arises: over the sampler's steps, layer by layer, and the first site that the bisection found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dsr_export.html.charts import Series
from dsr_export.html.curves import Level, curves
from dsr_export.html.markup import Markup, element, joined, text
from dsr_export.html.page import Section, figure, row, table
from dsr_export.reports.figures import as_float, is_known, number
from dsr_export.reports.wording import Row, decibels

CEILING = 120.0  # dB; beyond this two float32 arrays are as good as equal
FLOOR = -40.0


def error_section(report: Row) -> Section | None:
    """None where the report holds no curve."""
    figures = [figure(chart, title=title) for title, chart in _charts(report)]
    if not figures:
        return None
    tables = [_site_table(report["sites"])] if report.get("sites") else []
    said = (
        "The signal-to-noise ratio of the candidate against the FP32 reference: each 6 dB halve the error. "
        "The dashed line is what is needed at the end."
    )
    return Section("Where the error arises", said, joined([row(*figures), *_bisection(report), *tables]))


def _charts(report: Row) -> list[tuple[str, Markup]]:
    charts = []
    if report.get("sites"):
        names = [str(site["site"]) for site in report["sites"]]
        chart = _snr_chart([site["snr_db"] for site in report["sites"]], names, "site", _needed(report))
        charts.append(("Layer by layer", chart))
    growth = report.get("trajectory_snr_db") or []
    if growth:
        steps = [str(i + 1) for i in range(len(growth))]
        charts.append(("Over the steps of a sampling run", _snr_chart(growth, steps, "step", _needed(report))))
    found = report.get("bisection")
    if found and found.get("curve") and found["curve"] != report.get("sites"):
        values, names = _bisected(found["curve"])
        level = found.get("tolerance_db")
        charts.append(("Bisection", _snr_chart(values, names, "site", level)))
    return charts


def _snr_chart(values: Sequence[float | None], names: Sequence[str], x_label: str, needed: float | None) -> Markup:
    drawn = [min(max(value, FLOOR), CEILING) if is_known(value) else math.nan for value in values]
    series = Series("SNR in dB", "b", range(len(values)), drawn)
    levels = [Level(needed, f"needed: {needed:g} dB")] if is_known(needed) else []
    return curves([series], names, x_label=x_label, y_label="SNR, dB", levels=levels)


def _needed(report: Row) -> float | None:
    """The tolerance of the model's own outputs."""
    own = [r for r in report["parity"] if "component" not in r and r["check"] != "rows"]
    return as_float(own[-1]["tolerance"]["snr_db"]) if own else None


def _bisected(curve: Sequence[Any]) -> tuple[list[float | None], list[str]]:
    """The curve's points: with their site, or bare."""
    values = [point["snr_db"] if isinstance(point, dict) else point for point in curve]
    names = [str(point["site"]) if isinstance(point, dict) else str(i) for i, point in enumerate(curve)]
    return values, names


def _bisection(report: Row) -> list[Markup]:
    """Which tokens carry the error at the first site out of tolerance."""
    roles = (report.get("bisection") or {}).get("roles") or {}
    if not roles:
        return []
    rows = [[role, decibels(each["snr_db"]), number(each["max_abs"], ".3g")] for role, each in roles.items()]
    title = f"Errors by kind of token at {report['bisection']['site']}"
    return [figure(table(("tokens", "SNR, dB", "largest error"), rows), title=title)]


def _site_table(sites: Sequence[Row]) -> Markup:
    rows = [[str(site["site"]), str(site.get("module", "")), decibels(site["snr_db"])] for site in sites]
    listing = figure(table(("site", "module", "SNR, dB"), rows))
    return element("details", element("summary", text(f"All {len(sites)} sites")), listing)
