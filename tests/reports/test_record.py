"""`Report` reads back what it wrote, and what other versions wrote: nothing is added to it, and nothing is lost."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError
from dsr_export.reports.figures import is_known, number
from dsr_export.reports.reading import Entry
from dsr_export.reports.record import KEYS, Check, Component, NotRun, Picture, Report, Row, StageTime, all_passed
from dsr_export.reports.record_parts import Bounds
from dsr_export.reports.renderings import report_files
from tests.reports.damaged_reports import damaged
from tests.reports.sample_report import full_report, parity_row
from tests.reports.test_schema import DOCUMENTED

NEW = ("from_build", "samples", "images", "files", "engines_not_run", "manifest_digest", "signed_by", "bisection")


def _json(report: Any) -> Any:
    """As text, in which NaN equals NaN."""
    return json.dumps(report, sort_keys=True)


def test_a_full_report_comes_back_as_it_was(digits_bundle: Path, pipeline_bundle: Path) -> None:
    reports = [full_report(), *(Bundle.open(path).report() for path in (digits_bundle, pipeline_bundle))]
    for report in reports:
        assert _json(Report.read(report).as_dict()) == _json(report)


@pytest.mark.parametrize("seed", range(40))
def test_a_report_without_some_figures_comes_back_and_is_written(seed: int) -> None:
    made = Report.read(damaged(full_report(), seed)).as_dict()
    assert _json(Report.read(made).as_dict()) == _json(made)
    assert len(report_files(Report.read(made))) == 3


@pytest.mark.parametrize("key", NEW)
def test_what_another_version_did_not_write_is_not_made_up(key: str) -> None:
    report = {name: value for name, value in full_report().items() if name != key}
    read = Report.read(report)
    assert _json(read.as_dict()) == _json(report)
    assert read.changed(passed=True).as_dict() == {**read.as_dict(), "passed": True}
    assert key in read.changed(**{key: getattr(read, key)}).as_dict()


def test_what_a_later_version_wrote_stays() -> None:
    assert Report.read({**full_report(), "unheard_of": [1]}).as_dict()["unheard_of"] == [1]


def test_no_field_is_a_section_too() -> None:
    assert set(Report.read(full_report()).sections).isdisjoint(KEYS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parity": 3}, "report.json: parity is 3, expected a list of objects"),
        ({"parity": [parity_row(runtime=None)]}, r"parity\[0\]: runtime is None, expected a text"),
        ({"checks": [{"value": 1.0}]}, r"checks\[0\]: name is missing, expected a text"),
        ({"components": {"decoder": "x"}}, "components: decoder is 'x', expected an object"),
        ({"targets": [1]}, r"targets is \[1\], expected a list of texts"),
    ],
)
def test_what_is_no_report_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        Report.read({**full_report(), **change})


def test_only_a_plain_true_is_a_pass() -> None:
    for value in ("yes", 1, None, math.nan):
        assert not Row.read(_entry(parity_row(passed=value))).passed
    assert Row.read(_entry(parity_row())).passed


def test_the_verdict_is_over_rows_checks_and_pictures() -> None:
    report = Report.read(full_report())
    row, check, image = report.parity[0], Check(name="a", value=1.0, limit=1.0, passed=True), report.images[0]
    bad_row, bad_check, bad_image = report.parity[1], report.checks[0], replace(image, passed=False)
    assert all_passed([row], [check], [image]) and all_passed([row], [], [])
    assert not all_passed([], [check], [image])
    assert not all_passed([row, bad_row], [check], [image])
    assert not all_passed([row], [check, bad_check], [image])
    assert not all_passed([row], [check], [image, bad_image])


@pytest.mark.parametrize("value", [10**400, -(10**400), math.nan, math.inf, None, "1"])
def test_a_figure_of_any_size_renders(value: Any) -> None:
    assert not is_known(value) and number(value, ".1f") == "\N{EN DASH}"
    row = parity_row(snr_db=value, passed=False)
    assert len(report_files(Report.read({**full_report(), "parity": [row]}))) == 3


def _entry(values: dict[str, Any]) -> Entry:
    return Entry("somewhere", values)


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [
        ("parity[].", Row),
        ("parity[].tolerance.", Bounds),
        ("checks[].", Check),
        ("images[].", Picture),
        ("engines_not_run[].", NotRun),
        ("stages[].", StageTime),
        ("components.<role>.", Component),
    ],
)
def test_a_part_has_the_documented_keys_and_no_other(prefix: str, kind: Any) -> None:
    documented = {key.removeprefix(prefix) for key in DOCUMENTED if key.startswith(prefix)}
    assert {key.split(".")[0] for key in documented} == {each.name for each in fields(kind)}


def test_every_field_is_documented() -> None:
    assert set(KEYS) <= {re.split(r"[.\[]", key)[0] for key in DOCUMENTED}
