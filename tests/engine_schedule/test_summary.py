"""Schedules in short, of anybody's report; and `inspect` of a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsr_export.engine_schedule.summary import schedule_summaries
from dsr_export.errors import ExportError
from tests.conftest import Cli
from tests.engine_schedule.tiny_plan import PLAN
from tests.reports.sample_report import full_report


def test_a_summary_has_the_sums() -> None:
    found = schedule_summaries(full_report())["rtx"]
    assert isinstance(found, dict)
    kinds = found.pop("kinds")
    assert sum(each["launches"] for each in kinds.values()) == 7
    assert found == {
        "batch": 2,
        "launches": 7,
        "moved_bytes": 159936,
        "attentions": 1,
        "attentions_fused": 0,
        "weight_gemms": {"float16": 1, "int8": 1},
    }


def test_a_plan_that_was_not_understood_says_why() -> None:
    told = {"engines": {"a": {"schedule": None, "schedule_problem": "cannot be read: x"}, "b": {"plan_bytes": 3}}}
    assert schedule_summaries(told) == {"a": "cannot be read: x", "b": None}
    assert schedule_summaries({}) == schedule_summaries({"engines": None}) == {}


@pytest.mark.parametrize("engines", [[1], {"rtx": 3}, {"rtx": {"schedule": [1]}}, {"rtx": {"schedule": {"batch": 2}}}])
def test_another_form_is_an_error_with_a_hint(engines: Any) -> None:
    with pytest.raises(ExportError, match=r"report\.json"):
        schedule_summaries({"engines": engines})


def test_inspect_reads_a_plan(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "some.plan"
    path.write_bytes(PLAN)
    done = cli("inspect", path, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["launches"] == 7 and [each["block"] for each in found["blocks"]] == ["root", "blocks.0"]
    path.write_bytes(PLAN[:900])
    done = cli("inspect", path)
    assert done.code == 1 and "cannot be read" in done.err
    assert cli("inspect", tmp_path / "no.plan").code == 1
