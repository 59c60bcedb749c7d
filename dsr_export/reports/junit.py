"""`junit.xml`: one test case for each comparison and each check, in the form that Jenkins, GitLab and GitHub read.

The form: https://github.com/jenkinsci/xunit-plugin (junit-10.xsd); GitLab tells cases apart by class name and name.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dsr_export.reports.figures import known
from dsr_export.reports.record import Report, Row
from dsr_export.reports.stage_names import compares
from dsr_export.reports.witness import runtime_name
from dsr_export.reports.wording import (
    check_figures,
    check_name,
    failed_pictures,
    model_name,
    picture_shortfalls,
    row_figures,
    row_prefix,
    shortfalls,
)

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no form for; a runtime's message may hold it."""


@dataclass(frozen=True)
class _Case:
    name: str
    figures: str
    problem: str | None = None
    skipped: str | None = None


@dataclass(frozen=True)
class _Suite:
    """Test cases of one runtime, or the checks. The time is that of the stages they come from, in seconds."""

    name: str
    seconds: float
    cases: Sequence[_Case]


def junit(report: Report) -> str:
    """The report as a JUnit document."""
    suites = [*_runtimes(report), *_checks(report), *_not_run(report)]
    root = ElementTree.Element("testsuites", {"name": "dsr-export", **_counts(suites)})
    for suite in suites:
        _add_suite(root, suite, report)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _runtimes(report: Report) -> Iterable[_Suite]:
    """One suite for each runtime of each model, in the report's order."""
    for component, runtime in dict.fromkeys((row.component, row.runtime) for row in report.parity):
        rows = [row for row in report.parity if (row.component, row.runtime) == (component, runtime)]
        told = runtime_name(report, runtime, component)
        name = told if component is None else f"{component}.{told}"
        cases = _distinct([_row_case(row, report) for row in rows])
        yield _Suite(name, _parity_seconds(report, component, runtime), cases)


def _row_case(row: Row, report: Report) -> _Case:
    """The pictures at the end of a trajectory are part of it."""
    missed = [] if row.passed else shortfalls(row) or ["failed"]
    if row.check == "trajectory" and row.component is None:
        missed += [picture_shortfalls(each) for each in failed_pictures(report) if each.runtime == row.runtime]
    problem = "; ".join(missed) or None
    return _Case(f"{row.check} {row.output}", row_figures(row), problem)


def _distinct(cases: Sequence[_Case]) -> list[_Case]:
    """Two engines of one runtime make the same comparisons; readers would take them for one."""
    seen: dict[str, int] = {}
    made = []
    for case in cases:
        count = seen[case.name] = seen.get(case.name, 0) + 1
        made.append(case if count == 1 else _Case(f"{case.name} #{count}", case.figures, case.problem))
    return made


def _checks(report: Report) -> Iterable[_Suite]:
    cases = [
        _Case(check_name(check), check_figures(check), None if check.passed else check_figures(check))
        for check in report.checks
    ]
    if cases:
        yield _Suite("checks", 0.0, cases)


def _not_run(report: Report) -> Iterable[_Suite]:
    """A skipped case for each engine that nothing was compared on."""
    engines = report.engines_not_run
    cases = [_Case(f"{row_prefix(each)}{each.engine}", "", skipped=each.reason) for each in engines]
    if cases:
        yield _Suite("engines not run", 0.0, cases)


def _parity_seconds(report: Report, component: str | None, runtime: str) -> float:
    return float(sum(known(stage.seconds for stage in report.stages if compares(stage.name, component, runtime))))


def _counts(suites: Sequence[_Suite]) -> dict[str, str]:
    cases = [case for suite in suites for case in suite.cases]
    failures = sum(case.problem is not None for case in cases)
    seconds = sum(suite.seconds for suite in suites)
    return {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "time": f"{seconds:.3f}"}


def _add_suite(root: ElementTree.Element, suite: _Suite, report: Report) -> None:
    skipped = str(sum(case.skipped is not None for case in suite.cases))
    made = ElementTree.SubElement(
        root, "testsuite", {"name": clean(suite.name), "skipped": skipped, **_counts([suite])}
    )
    properties = ElementTree.SubElement(made, "properties")
    for name in ("precision", "target", "bundle", "manifest_digest", "signed_by"):
        if (value := getattr(report, name)) is not None:
            ElementTree.SubElement(properties, "property", name=name, value=clean(value))
    for case in suite.cases:
        _add_case(made, case, suite, report)


def _add_case(suite: ElementTree.Element, case: _Case, of: _Suite, report: Report) -> None:
    """The stage's time is shared evenly: a comparison is not timed for itself."""
    package = re.sub(r"[^\w-]+", "-", model_name(report)).strip("-") or "model"
    seconds = f"{of.seconds / len(of.cases):.3f}"
    classname = clean(f"{package}.{of.name}")
    made = ElementTree.SubElement(suite, "testcase", classname=classname, name=clean(case.name), time=seconds)
    if case.skipped is not None:
        ElementTree.SubElement(made, "skipped", message=clean(case.skipped))
    if case.problem is not None:
        failure = ElementTree.SubElement(made, "failure", message=clean(case.problem), type="OutOfTolerance")
        failure.text = clean(f"{case.problem}\nmeasured: {case.figures}")


def clean(value: str) -> str:
    """Without what XML has no form for."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", value)
