"""A schedule that is read back from a report, which may be anybody's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsr_export.engine_schedule.facts import inspected_facts
from dsr_export.engine_schedule.plan_text import UnreadableSchedule
from dsr_export.engine_schedule.recorded import recorded_schedule
from dsr_export.engine_schedule.roofline import estimates
from tests.engine_schedule.tiny_inspection import TEXT
from tests.engine_schedule.tiny_plan import tiny_graph

REPORT: dict[str, Any] = {"engines": {"trt10": inspected_facts(TEXT, tiny_graph(), 2)}}


def test_its_launches_and_its_estimates_are_those_of_the_engine() -> None:
    told = REPORT["engines"]["trt10"]["schedule"]
    found = recorded_schedule(REPORT, "trt10", 2)
    assert found.moved == told["moved_bytes"] and found.by_kind() == told["kinds"]
    assert [each.as_dict() for each in found.launches] == told["launches"]
    assert estimates(found.launches) == told["estimates"]


@pytest.mark.parametrize(
    ("engines", "batch", "said"),
    [
        ({}, 2, r"of another form \(KeyError 'trt10'\)"),
        ({"trt10": {}}, 2, "its report has none"),
        ({"trt10": {"schedule": None, "schedule_problem": "the schedule of this plan cannot be read: x"}}, 2, "^x$"),
        (REPORT["engines"], 4, "has it at batch 2"),
        ({"trt10": {"schedule": {"batch": 2, "launches": []}}}, 2, "has no launches"),
    ],
)
def test_what_is_not_there_is_said(engines: Any, batch: int, said: str) -> None:
    with pytest.raises(UnreadableSchedule, match=said):
        recorded_schedule({"engines": engines}, "trt10", batch)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["kind", "kernel", "nodes", "read", "written", "computes", "operations"]),
    st.none()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.just("int64")
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.sampled_from(["float16", "x"]), st.none() | st.integers(), max_size=2),
    st.integers(0, 6),
)
def test_a_changed_launch_can_be_estimated_or_is_refused(key: str, value: Any, place: int) -> None:
    report = copy.deepcopy(REPORT)
    report["engines"]["trt10"]["schedule"]["launches"][place][key] = value
    try:
        found = recorded_schedule(report, "trt10", 2)
    except UnreadableSchedule:
        return
    assert all(each["stream_ms"] > 0 for each in estimates(found.launches).values())
