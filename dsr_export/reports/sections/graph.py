"""What became of the graph: operators before and after each rewrite, types, and the widest values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dsr_export.html.cells import bar_cell, name_cell, rich_table
from dsr_export.html.cells import words as cells
from dsr_export.html.markup import Markup, element, joined, text
from dsr_export.html.page import Section, figure, row, table
from dsr_export.parity.narrowing import FEW
from dsr_export.reports.figures import DASH, is_known, known, number, reaches, share
from dsr_export.reports.reading import Entry, mapping, number_in, table_in, texts, words
from dsr_export.reports.record import Report
from graphs.precisions import narrow_precisions

_MINUS = "\N{MINUS SIGN}"


def graph_section(report: Report) -> Section | None:
    """None where the report tells nothing of the graph."""
    rewrites, typing, ranges = _rewrites(report), _typing(report), _ranges(report)
    if not (rewrites or typing or ranges):
        return None
    said = "Each rewrite with the operators around it, what stays in FP32, and the values that decide it."
    kept = [row(*typing, wide=True)] if typing else []
    return Section("Graph", said, joined([*rewrites, *kept, *([row(*ranges)] if ranges else [])]))


def _rewrites(report: Report) -> list[Markup]:
    details = report.section("rewrite_details")
    if details is None:
        return []
    names = sorted(details.values, key=lambda name: (name == "fold_constants", name))  # folding comes last
    ordered = [(name, mapping(details, name)) for name in names]
    counts = ("count", "nodes_before", "nodes_after")
    rows = [[name, *(number(number_in(each, key), "d") for key in counts), _change(each)] for name, each in ordered]
    header = ("rewrite", "sites", "operators before", "after", "what changed")
    return [figure(table(header, rows), title="Rewrites"), *_sites(ordered)]


def _change(rewrite: Entry) -> str:
    """`Where +6, ReplaceOutliers -2`: the largest changes first."""
    change = sorted(table_in(rewrite, "operators").items(), key=lambda item: -abs(item[1]) if is_known(item[1]) else 0)
    shown = [f"{op} {_signed(count)}" for op, count in change[:6]]
    more = [f"{len(change) - 6} more"] if len(change) > 6 else []
    return ", ".join([*shown, *more]) or "nothing"


def _signed(count: int | None) -> str:
    return f"{'+' if count > 0 else _MINUS}{abs(count)}" if is_known(count) else DASH


def _sites(ordered: list[tuple[str, Entry]]) -> list[Markup]:
    rows = [[site, name] for name, each in ordered for site in texts(each, "sites")]
    if not rows:
        return []
    listing = figure(table(("site", "rewritten by"), rows))
    return [element("details", element("summary", text(f"All {len(rows)} rewritten sites")), listing)]


def _typing(report: Report) -> list[Markup]:
    typing = report.section("typing")
    if typing is None or not number_in(typing, "fp32_nodes"):
        return []
    kept, casts = (number(number_in(typing, key), "d") for key in ("fp32_nodes", "casts"))
    found = table_in(typing, "fp32_reasons")
    reasons, most = _largest(found), max(known(found.values()), default=0.0)
    rows = [[text(reason), bar_cell(share(count, most), number(count, "d"))] for reason, count in reasons]
    caption = (
        f"{kept} operators stay in FP32, with {casts} casts; "
        f"{number(number_in(typing, 'half_weight_fraction'), '.1%')} of the weight bytes of GEMMs and convolutions are "
        f"{(words(typing, 'precision') or DASH).upper()}{_why_few(typing)}."
    )
    return [figure(rich_table(("reason", "operators"), rows), title="Kept in FP32", caption=caption)]


def _why_few(typing: Entry) -> str:
    narrow = words(typing, "precision") in narrow_precisions()
    few = narrow and not reaches(number_in(typing, "half_weight_fraction"), FEW)
    return ": in a model this small, most lie in what stays FP32" if few else ""


def _ranges(report: Report) -> list[Markup]:
    audit = report.section("range_audit")
    if audit is None:
        return []
    limit, kept = number_in(audit, "limit"), table_in(audit, "kept_fp32")
    rows = [
        [name_cell(name), *cells(number(value, ".5g"), DASH if name not in kept else "kept")]
        for name, value in _largest(table_in(audit, "widest"))
    ]
    sums = [[name_cell(name), *cells(number(value, ".5g"))] for name, value in _largest(table_in(audit, "widest_sums"))]
    tensors, runs = (number(number_in(audit, key), "d") for key in ("tensors", "runs"))
    caption = (
        f"The widest of {tensors} tensors over {runs} calls of the FP32 graph. Whatever passes "
        f"{number(limit, '.5g')}, a quarter of FP16's largest value, or is too small for it, is kept in FP32."
    )
    charts = [figure(rich_table(("tensor", "largest |x|", "FP32"), rows), title="Widest values", caption=caption)]
    if sums:
        charts.append(figure(rich_table(("sum inside", "largest"), sums), title="Widest sums inside means and norms"))
    return charts


def _largest(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Largest first: JSON keeps no order. What is not known might be larger still."""
    return sorted(values.items(), key=lambda item: -item[1] if is_known(item[1]) else -math.inf)
