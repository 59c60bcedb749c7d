"""What engine B launches and moves more or less than engine A, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dsr_export.reports.figures import is_known, number
from dsr_export.reports.wording import file_size

SIGNIFICANT = 0.01
"""A change of the bytes that is worth a word; below it are sizes of padding."""


def schedule_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """Lines about two summaries of `schedule_summaries`: launches, bytes, fusions, and what GEMMs compute in."""
    if a["batch"] != b["batch"]:
        yield f"schedules of different batches: {number(a['batch'], 'd')} and {number(b['batch'], 'd')}"
        return
    yield f"launches {number(a['launches'], 'd')} -> {number(b['launches'], 'd')}{_more(a, b, 'launches', 'launches')}"
    sizes = [file_size(each["moved_bytes"]) for each in (a, b)]
    yield f"moves {sizes[0]} -> {sizes[1]}{_more(a, b, 'moved_bytes', 'moves')}"
    if a["attentions"] or b["attentions"]:
        yield f"attentions fused {_fused(a)} -> {_fused(b)}{_fusions(a, b)}"
    if a["weight_gemms"] != b["weight_gemms"]:
        yield f"weight GEMMs compute in {_types(a)} -> {_types(b)}"


def _more(a: Mapping[str, Any], b: Mapping[str, Any], key: str, verb: str) -> str:
    left, right = a[key], b[key]
    if not (is_known(left) and is_known(right)) or not left or abs(right / left - 1) < SIGNIFICANT:
        return ""
    return f": B {verb} {abs(right / left - 1):.0%} {'more' if right > left else 'less'}"


def _fused(side: Mapping[str, Any]) -> str:
    return f"{number(side['attentions_fused'], 'd')} of {number(side['attentions'], 'd')}"


def _fusions(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    figures = [(side["attentions"], side["attentions_fused"]) for side in (a, b)]
    apart = [whole - fused for whole, fused in figures if is_known(whole) and is_known(fused)]
    if len(apart) < 2 or apart[0] == apart[1]:
        return ""
    return ": B lost a fusion" if apart[1] > apart[0] else ": B gained a fusion"


def _types(side: Mapping[str, Any]) -> str:
    return ", ".join(f"{kind} {number(count, 'd')}" for kind, count in side["weight_gemms"].items()) or "none"
