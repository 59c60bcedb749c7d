"""What commands print on stdout: one JSON object with `--json`, otherwise a short table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dsr_export.cli.exit_codes import exit_unless
from dsr_export.cli.printing.bisection import bisection_lines
from dsr_export.cli.process.streams import answer, answer_json
from dsr_export.reports.figures import known, number
from dsr_export.reports.format_costs import cost_lines
from dsr_export.reports.record import Picture, Report, Row
from dsr_export.reports.schedules import schedule_lines
from dsr_export.reports.witness import as_read
from dsr_export.reports.wording import left_out, not_run, owned


def show_report(report: Report, *, as_json: bool) -> None:
    """Prints a build's or a verification's report and exits 3 where it failed."""
    if as_json:
        answer_json(report.as_dict())
    else:
        _print_report(as_read(report))
    exit_unless(report.passed)


def _print_report(report: Report) -> None:
    answer(f"{report.bundle}  {report.precision}  {', '.join(report.targets)}")
    width = max([7, *(len(owned(row.component, row.output)) for row in report.parity)])
    for row in report.parity:
        output = owned(row.component, row.output).ljust(width)
        answer(f"  {_verdict(row.passed)}  {row.ran:<12} {row.check:<16} {output} {_figures(row)}")
    for line in _images(report.images):
        answer(line)
    for check in report.checks:
        figures = check.problem or f"{number(check.value, '.3f')} (at least {number(check.limit, '.2f')})"
        answer(f"  {_verdict(check.passed)}  {owned(check.component, check.of)}: {figures}")
    for line in not_run(report):
        answer(f"  --    {line}")
    for line in (*schedule_lines(report), *cost_lines(report)):
        answer(line)
    if report.bisection is not None:
        for line in bisection_lines(report.bisection):
            answer(line)
    if report.manifest_digest:
        signed = f", signed by {report.signed_by}" if report.signed_by else ""
        answer(f"manifest {report.manifest_digest}{signed}")
    failed = "FAILED" if report.from_build else f"FAILED: see {report.bundle}/report.html"
    answer("passed" if report.passed else failed)


def _images(rows: Sequence[Picture]) -> Iterator[str]:
    """One line per runtime: the worst of its pictures."""
    for runtime in dict.fromkeys(row.runtime for row in rows):
        own = [row for row in rows if row.runtime == runtime]
        psnr, ssim = (
            min(known(values), default=None) for values in zip(*((row.psnr_db, row.ssim) for row in own), strict=True)
        )
        figures = f"PSNR {number(psnr, '.1f')} dB  SSIM {number(ssim, '.6f')}"
        verdict = _verdict(all(row.passed for row in own))
        yield f"  {verdict}  {runtime:<12} {len(own)} pictures: {figures} (the worst of each)"


def _verdict(passed: bool) -> str:
    return "ok  " if passed else "FAIL"


def _figures(row: Row) -> str:
    if row.problem is not None:
        return row.problem
    decibel = f"PSNR {number(row.psnr_db, '.1f')} dB  SNR {number(row.snr_db, '.1f')} dB"
    figures = f"max {number(row.max_abs, '.2e')}  cos {number(row.cosine, '.6f')}  {decibel}"
    return figures + left_out(row)
