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
from dsr_export.reports.reading import Entry, entries, mapping, number_in, words
from dsr_export.reports.record import Report
from dsr_export.reports.wording import decibels

CEILING = 120.0  # dB; beyond this two float32 arrays are as good as equal
FLOOR = -40.0


def error_section(report: Report) -> Section | None:
    """None where the report holds no curve."""
    figures = [figure(chart, title=title) for title, chart in _charts(report)]
    if not figures:
        return None
    sites = _sites(report)
    tables = [_site_table(sites)] if sites else []
    said = (
        "The signal-to-noise ratio of the candidate against the FP32 reference: each 6 dB halve the error. "
        "The dashed line is what is needed at the end."
    )
    return Section("Where the error arises", said, joined([row(*figures), *_bisection(report), *tables]))


def _sites(report: Report) -> list[Entry]:
    return entries(Entry(f"report.json of {report.bundle}", report.sections), "sites")


def _charts(report: Report) -> list[tuple[str, Markup]]:
    charts, sites = [], _sites(report)
    if sites:
        names = [words(site, "site") or "" for site in sites]
        chart = _snr_chart([number_in(site, "snr_db") for site in sites], names, "site", _needed(report))
        charts.append(("Layer by layer", chart))
    if growth := report.trajectory_snr_db:
        steps = [str(i + 1) for i in range(len(growth))]
        charts.append(("Over the steps of a sampling run", _snr_chart(growth, steps, "step", _needed(report))))
    found = Entry("bisection", report.bisection or {})
    curve = found.values.get("curve")
    if isinstance(curve, list | tuple) and curve and curve != report.sections.get("sites"):
        values, names = _bisected(curve)
        charts.append(("Bisection", _snr_chart(values, names, "site", number_in(found, "tolerance_db"))))
    return charts


def _snr_chart(values: Sequence[float | None], names: Sequence[str], x_label: str, needed: float | None) -> Markup:
    drawn = [min(max(value, FLOOR), CEILING) if is_known(value) else math.nan for value in values]
    series = Series("SNR in dB", "b", range(len(values)), drawn)
    levels = [Level(needed, f"needed: {needed:g} dB")] if is_known(needed) else []
    return curves([series], names, x_label=x_label, y_label="SNR, dB", levels=levels)


def _needed(report: Report) -> float | None:
    """The tolerance of the model's own outputs."""
    own = [row for row in report.parity if row.component is None and row.check != "rows"]
    return as_float(own[-1].tolerance.snr_db) if own else None


def _bisected(curve: Sequence[Any]) -> tuple[list[float | None], list[str]]:
    """The curve's points: with their site, or bare."""
    values = [point.get("snr_db") if isinstance(point, dict) else point for point in curve]
    names = [str(point.get("site", i)) if isinstance(point, dict) else str(i) for i, point in enumerate(curve)]
    return values, names


def _bisection(report: Report) -> list[Markup]:
    """Which tokens carry the error at the first site out of tolerance."""
    found = Entry("bisection", report.bisection or {})
    if not found.values.get("roles"):
        return []
    roles = mapping(found, "roles")
    measured = [(role, mapping(roles, role)) for role in roles.values]
    rows = [
        [role, decibels(number_in(each, "snr_db")), number(number_in(each, "max_abs"), ".3g")]
        for role, each in measured
    ]
    title = f"Errors by kind of token at {words(found, 'site')}"
    return [figure(table(("tokens", "SNR, dB", "largest error"), rows), title=title)]


def _site_table(sites: Sequence[Entry]) -> Markup:
    rows = [
        [words(site, "site") or "", words(site, "module") or "", decibels(number_in(site, "snr_db"))] for site in sites
    ]
    listing = figure(table(("site", "module", "SNR, dB"), rows))
    return element("details", element("summary", text(f"All {len(sites)} sites")), listing)
