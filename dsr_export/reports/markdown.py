"""The verdict of a build or a verification as a Markdown table: for a CI summary, or a comment on a change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dsr_export.reports.figures import number
from dsr_export.reports.format_costs import cost_lines
from dsr_export.reports.record import Check, Picture, Report, Row
from dsr_export.reports.schedules import schedule_lines
from dsr_export.reports.witness import as_read
from dsr_export.reports.wording import failed_pictures, not_run, owned, picture_shortfalls

HEADER = (
    "| | runtime | check | output | SNR | PSNR | cosine | max abs |",
    "|---|---|---|---|---:|---:|---:|---:|",
)


def markdown_table(report: Report) -> str:
    """A heading with the verdict, a row per comparison, and a line per other check."""
    report = as_read(report)
    verdict = "passed" if report.passed else "**failed**"
    title = f"{_text(Path(report.bundle).name)} ({report.precision}, {', '.join(report.targets)})"
    lines = [f"### {title}: {verdict}", "", *HEADER, *map(_row, report.parity), "", *_checks(report.checks)]
    lines += [f"- **FAIL** {_text(_picture(each))}" for each in failed_pictures(report)]
    lines += [f"- {_text(line)}" for line in [*not_run(report), *schedule_lines(report), *cost_lines(report)]]
    if report.manifest_digest:
        lines.append(f"- manifest {_text(report.manifest_digest)}")
    return "\n".join(lines) + "\n"


def _row(row: Row) -> str:
    names = [_mark(row.passed), row.ran, row.check, owned(row.component, row.output)]
    if row.problem is not None:
        return _cells([*names, row.problem, "", "", ""])
    figures = [number(value, ".1f", " dB") for value in (row.snr_db, row.psnr_db)]
    figures += [number(row.cosine, ".6f"), number(row.max_abs, ".2e")]
    return _cells([*names, *figures])


def _picture(picture: Picture) -> str:
    return f"{picture.runtime} {picture_shortfalls(picture)}"


def _checks(checks: Iterable[Check]) -> Iterator[str]:
    for check in checks:
        figures = check.problem or f"{number(check.value, '.3f')} (at least {number(check.limit, '.2f')})"
        yield f"- {_mark(check.passed)} {_text(owned(check.component, check.of))}: {_text(figures)}"


def _mark(passed: bool) -> str:
    return "ok" if passed else "**FAIL**"


def _cells(texts: list[str]) -> str:
    return f"| {' | '.join(map(_text, texts))} |"


def _text(text: str) -> str:
    """In one cell of a table, and as text only: names of outputs and messages come from models."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
