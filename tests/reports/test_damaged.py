"""Whatever figure a report lacks, it is written in every form: a failed parity must end in a verdict."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dsr_export.bundle.reader import Bundle
from dsr_export.cli.printing.report import _print_report
from dsr_export.diff.figures import check_difference, parity_difference
from dsr_export.diff.text import _outputs, _rows
from dsr_export.diff.verdict import regressions
from dsr_export.reports.junit import junit
from dsr_export.reports.markdown import markdown_table
from dsr_export.reports.page import report_page
from dsr_export.reports.reading import Entry
from dsr_export.reports.record import Report, Row
from dsr_export.reports.renderings import JUNIT, PAGE, REPORT, report_files
from dsr_export.reports.wording import shortfalls
from dsr_export.verification.for_test_runners import reasons
from tests.reports.damaged_reports import BROKEN, count_figures, damaged, with_broken
from tests.reports.sample_report import full_report, parity_row

SEEDS = [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 500))]


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check_forms(values: dict[str, Any]) -> None:
    report = Report.read(values)
    files = report_files(report)
    json.loads(files[REPORT], parse_constant=_refuse)
    for page in (files[PAGE].decode(), report_page(report)):
        assert page.startswith("<!doctype html>")
        assert "nan" not in page.lower().split("base64")[0].split("<style")[0]
    for text in (files[JUNIT].decode(), junit(report)):
        cases = ElementTree.fromstring(text.split("\n", 1)[1]).findall("testsuite/testcase")
        assert len(cases) == len(report.parity) + len(report.checks) + len(report.engines_not_run)
    table = markdown_table(report)
    assert table.count("\n| ") == len(report.parity) + 1
    _print_report(report)
    for row in (*report.parity, *report.checks):
        assert row.passed or list(reasons(row))


def _check_difference(a: dict[str, Any], b: dict[str, Any], manifest: Any) -> None:
    rows, checks = parity_difference(a["parity"], b["parity"]), check_difference(a["checks"], b["checks"])
    assert list(_rows(rows))
    outputs = [
        {"batch": 1, "output": "out", "a": row["a"], "b": row["b"], "b_against_a": row["a"]}
        for row in rows
        if row["a"] is not None and row["b"] is not None
    ]
    assert list(_outputs(outputs))
    regressions(manifest, manifest, {"parity": rows, "checks": checks, "outputs": outputs}, 3.0)


@pytest.fixture(scope="module")
def built(digits_bundle: Path) -> dict[str, Any]:
    """A real build's."""
    report: dict[str, Any] = json.loads(Bundle.open(digits_bundle).file("report.json").read_bytes())
    return report


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_report_is_written_in_every_form(seed: int, digits_bundle: Path, built: dict[str, Any]) -> None:
    report = full_report() if seed % 4 else built
    made = damaged(report, seed)
    _check_forms(made)
    _check_difference(report, made, Bundle.open(digits_bundle).manifest)
    _check_difference(made, report, Bundle.open(digits_bundle).manifest)


@pytest.mark.slow
@pytest.mark.parametrize("value", BROKEN)
def test_any_single_figure_may_be_broken(value: float | None) -> None:
    for place in range(count_figures(full_report())):
        _check_forms(with_broken(full_report(), place, value))


def test_no_first_site_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    """What mixes the images of a batch is right at every site, one image at a time."""
    report = full_report()
    lacking = dict.fromkeys(("site", "module", "tensor", "snr_db", "tolerance_db", "problem", "roles_at"))
    report["bisection"] = {**lacking, "roles": {}, "curve": []}
    assert "No site is out of tolerance by itself" in report_page(Report.read(report))
    _print_report(Report.read(report))
    assert "none is at fault" in capsys.readouterr().out


@pytest.mark.parametrize("value", BROKEN)
def test_a_figure_that_was_not_measured_is_a_shortfall(value: float | None) -> None:
    row = Row.read(Entry("a row", parity_row(passed=False, snr_db=value)))
    assert shortfalls(row) == ["SNR \N{EN DASH}, at least 20 dB needed"]
    assert shortfalls(Row.read(Entry("a row", parity_row(snr_db=value)))) == []
    assert "SNR     \N{EN DASH}, at least 20.0 dB   <- out of tolerance" in "\n".join(reasons(row))


def test_nothing_is_lost_of_a_sound_report() -> None:
    report = full_report()
    assert json.loads(report_files(Report.read(report))[REPORT]) == json.loads(json.dumps(report))
    assert (
        json.loads(report_files(Report.read({**report, "peak_rss_bytes": math.inf}))[REPORT])["peak_rss_bytes"] is None
    )
