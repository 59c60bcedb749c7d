"""What became of the graph: operators before and after each rewrite, types, and the widest values."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dsr_export.html.cells import bar_cell, name_cell, rich_table, words
from dsr_export.html.markup import Markup, element, joined, text
from dsr_export.html.page import Section, figure, row, table
from dsr_export.parity.narrowing import FEW
from dsr_export.reports.figures import DASH, is_known, known, number, reaches, share
from dsr_export.reports.wording import Row
from graphs.precisions import narrow_precisions

_MINUS = "\N{MINUS SIGN}"


def graph_section(report: Row) -> Section | None:
    """None where the report tells nothing of the graph."""
    rewrites, rest = _rewrites(report), [*_typing(report), *_ranges(report)]
    if not rewrites and not rest:
        return None
    said = "Each rewrite with the operators around it, what stays in FP32, and the values that decide it."
    return Section("Graph", said, joined([*rewrites, row(*rest)]))


def _rewrites(report: Row) -> list[Markup]:
    details = report.get("rewrite_details") or {}
    if not details:
        return []
    ordered = sorted(details.items(), key=lambda item: (item[0] == "fold_constants", item[0]))  # folding comes last
    rows = [
        [name, *(number(each[key], "d") for key in ("count", "nodes_before", "nodes_after")), _change(each)]
        for name, each in ordered
    ]
    header = ("rewrite", "sites", "operators before", "after", "what changed")
    return [figure(table(header, rows), title="Rewrites"), *_sites(ordered)]


def _change(rewrite: Row) -> str:
    """`Where +6, ReplaceOutliers -2`: the largest changes first."""
    change = sorted(rewrite.get("operators", {}).items(), key=lambda item: -abs(item[1]) if is_known(item[1]) else 0)
    shown = [f"{op} {_signed(count)}" for op, count in change[:6]]
    more = [f"{len(change) - 6} more"] if len(change) > 6 else []
    return ", ".join([*shown, *more]) or "nothing"


def _signed(count: int | None) -> str:
    return f"{'+' if count > 0 else _MINUS}{abs(count)}" if is_known(count) else DASH


def _sites(ordered: list[tuple[str, Row]]) -> list[Markup]:
    rows = [[site, name] for name, each in ordered for site in each["sites"]]
    if not rows:
        return []
    listing = figure(table(("site", "rewritten by"), rows))
    return [element("details", element("summary", text(f"All {len(rows)} rewritten sites")), listing)]


def _typing(report: Row) -> list[Markup]:
    typing = report.get("typing")
    if not typing or not typing["fp32_nodes"]:
        return []
    reasons = _largest(typing["fp32_reasons"])
    most = max(known(typing["fp32_reasons"].values()), default=0.0)
    rows = [[text(reason), bar_cell(share(count, most), number(count, "d"))] for reason, count in reasons]
    caption = (
        f"{number(typing['fp32_nodes'], 'd')} operators stay in FP32, with {number(typing['casts'], 'd')} casts; "
        f"{number(typing['half_weight_fraction'], '.1%')} of the weight bytes of GEMMs and convolutions are "
        f"{str(typing['precision']).upper()}{_why_few(typing)}."
    )
    return [figure(rich_table(("reason", "operators"), rows), title="Kept in FP32", caption=caption)]


def _why_few(typing: Row) -> str:
    few = typing["precision"] in narrow_precisions() and not reaches(typing["half_weight_fraction"], FEW)
    return ": in a model this small, most lie in what stays FP32" if few else ""


def _ranges(report: Row) -> list[Markup]:
    audit = report.get("range_audit")
    if not audit:
        return []
    limit, header = audit["limit"], ("tensor", "largest |x|", "FP32")
    rows = [
        [name_cell(name), *words(number(value, ".5g"), _kept(name, audit))] for name, value in _largest(audit["widest"])
    ]
    sums = [[name_cell(name), *words(number(value, ".5g"))] for name, value in _largest(audit["widest_sums"])]
    tensors, runs = number(audit["tensors"], "d"), number(audit["runs"], "d")
    caption = (
        f"The widest of {tensors} tensors over {runs} calls of the FP32 graph. Whatever passes "
        f"{number(limit, '.5g')}, a quarter of FP16's largest value, or is too small for it, is kept in FP32."
    )
    charts = [figure(rich_table(header, rows), title="Widest values", caption=caption)]
    if sums:
        charts.append(figure(rich_table(("sum inside", "largest"), sums), title="Widest sums inside means and norms"))
    return charts


def _largest(values: Mapping[str, float]) -> list[tuple[str, float]]:
    """Largest first: JSON keeps no order. What is not known might be larger still."""
    return sorted(values.items(), key=lambda item: -item[1] if is_known(item[1]) else -math.inf)


def _kept(name: str, audit: Row) -> str:
    return "kept" if name in audit["kept_fp32"] else DASH
