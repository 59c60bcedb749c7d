"""The page of a comparison: engines block by block, both sides in each cell."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from typing import Any

from dsr_export.diff.engine_pairs import engine_pairs
from dsr_export.diff.page import diff_page
from dsr_export.engine_schedule.summary import schedule_details
from tests.reports.damaged_reports import damaged
from tests.reports.sample_report import full_report


def _engine(report: dict[str, Any]) -> dict[str, Any]:
    return {"version": "1.7", "plan_bytes": 3, "seconds": 1.0, "schedule": schedule_details(report)["rtx"]}


def _integer() -> dict[str, Any]:
    """The engine of the sample, with half the bytes in its first block, which computes in INT8."""
    report = full_report()
    schedule = report["engines"]["rtx"]["schedule"]
    block = next(each for each in schedule["blocks"] if each["block"] == "blocks.0")
    block["moved_bytes"] //= 2
    for launch in schedule["launches"]:
        launch["computes"] = launch["computes"] and "int8"
    for each in schedule["estimates"].values():
        each["graph_ms"] /= 4
    return report


def _found(engines: dict[str, Any], **other: Any) -> dict[str, Any]:
    graph = {"nodes": {"a": 1, "b": 1}, "operators": {}, "nodes_added": [], "nodes_removed": [], "nodes_changed": []}
    weights = {"unchanged": 1, "changed": [], "added": [], "removed": []}
    same = {"identical": False, "regressions": [], "manifest": {}, "graph": graph, "weights": weights, "parity": []}
    same |= {
        "engine_graph": None,
        "runtime_graph": None,
        "step_graphs": {},
        "outputs": [],
        "components": {},
        "engines": engines,
        "step_engines": {},
    }
    return {"a": "some/fp16.dsr", "b": "some/int8<&>.dsr", **same, **other}


def _cells(page: str) -> list[list[str]]:
    """The rows of all tables, as text."""
    rows: list[list[str]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag == "tr":
                rows.append([])
            elif tag in ("td", "th"):
                rows[-1].append("")
            elif tag == "br":
                rows[-1][-1] += " | "

        def handle_data(self, data: str) -> None:
            if rows and rows[-1]:
                rows[-1][-1] += data

        def handle_endtag(self, tag: str) -> None:
            if tag == "tr":
                rows.append([])

    Reader().feed(page)
    return [row for row in rows if row]


def test_blocks_and_devices_stand_side_by_side() -> None:
    page = diff_page(_found({"rtx": {"a": _engine(full_report()), "b": _engine(_integer())}}))
    assert "<h2>What the engines do: rtx</h2>" in page and "int8&lt;&amp;&gt;.dsr" in page
    rows = {row[0]: row for row in _cells(page)}
    name, launches, moved, ratio, types = rows["blocks.0"]
    assert (name, launches, ratio) == ("blocks.0", "5 | 5", "0.50x")
    assert moved.count("kB") == 2 and types == "float16 2, int8 1 | int8 3"
    assert rows["l4"][3] == "0.25x" and set(rows) >= {"orin-agx", "h100-sxm", "device"}


def test_the_only_engines_are_a_pair_whatever_their_targets() -> None:
    one, other = _engine(full_report()), _engine(_integer())
    (pair,) = engine_pairs({"rtx": {"a": one, "b": None}, "rtx:8.9": {"a": None, "b": other}})
    assert pair.name == "rtx and rtx:8.9" and pair.b["estimates"] == other["schedule"]["estimates"]
    assert list(engine_pairs({"rtx": {"a": one, "b": None}})) == []
    untold = {**other, "schedule": "the schedule of this plan cannot be read"}
    assert list(engine_pairs({"rtx": {"a": one, "b": untold}})) == []
    both = {"rtx": {"a": one, "b": other}, "l4": {"a": one, "b": None}}
    assert [each.name for each in engine_pairs(both)] == ["rtx"]


def test_a_block_of_one_side_and_other_batches() -> None:
    less, more = _engine(full_report()), _engine(full_report())
    less["schedule"]["blocks"] = [each for each in less["schedule"]["blocks"] if each["block"] != "blocks.0"]
    page = diff_page(_found({"rtx": {"a": less, "b": more}}))
    assert next(row for row in _cells(page) if row[0] == "blocks.0")[1] == "\N{EN DASH} | 5"
    less["schedule"]["batch"] = 8
    assert "Estimated time" not in diff_page(_found({"rtx": {"a": less, "b": more}}))


def test_components_and_verdicts_are_on_it() -> None:
    inner = _found({"rtx": {"a": _engine(full_report()), "b": _engine(_integer())}})
    page = diff_page(_found({}, regressions=["decoder: worse <&>"], components={"decoder": inner}))
    assert "What the engines do: decoder, rtx" in page and "B is worse than A" in page and "worse &lt;&amp;&gt;" in page
    same = {"identical": True, "regressions": [], "components": {}, "a": "x.dsr", "b": "y.dsr"}
    assert "identical, byte for byte" in diff_page(same)


def test_figures_that_are_not_known_are_dashes() -> None:
    drawn = 0
    for report in (damaged(copy.deepcopy(full_report()), seed) for seed in range(20)):
        if report["engines"] and report["engines"]["rtx"]["schedule"]:
            page = diff_page(_found({"rtx": {"a": _engine(report), "b": _engine(full_report())}}))
            assert not re.search(r"\b(nan|inf|None)\b", page)
            drawn += 1
    assert drawn > 10
