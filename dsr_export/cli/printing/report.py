"""What commands print on stdout: one JSON object with `--json`, otherwise a short table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dsr_export.cli.exit_codes import exit_unless
from dsr_export.cli.printing.bisection import bisection_lines
from dsr_export.cli.process.streams import answer, answer_json
from dsr_export.reports.figures import known, number
from dsr_export.reports.wording import left_out, not_run, owned


def show_report(report: dict[str, Any], *, as_json: bool) -> None:
    """Prints a build's or a verification's report and exits 3 where it failed."""
    if as_json:
        answer_json(report)
    else:
        _print_report(report)
    exit_unless(report["passed"])


def _print_report(report: dict[str, Any]) -> None:
    answer(f"{report['bundle']}  {report['precision']}  {', '.join(report['targets'])}")
    width = max([7, *(len(owned(row, "output")) for row in report["parity"])])
    for row in report["parity"]:
        output = owned(row, "output").ljust(width)
        answer(f"  {_verdict(row)}  {row['runtime']:<12} {row['check']:<16} {output} {_figures(row)}")
    for line in _images(report.get("images", [])):
        answer(line)
    for check in report["checks"]:
        figures = check.get("problem") or f"{number(check['value'], '.3f')} (at least {number(check['limit'], '.2f')})"
        answer(f"  {_verdict(check)}  {owned(check, 'name')}: {figures}")
    for line in not_run(report):
        answer(f"  --    {line}")
    if report.get("bisection") is not None:
        for line in bisection_lines(report["bisection"]):
            answer(line)
    if report.get("manifest_digest"):
        signed = f", signed by {report['signed_by']}" if report.get("signed_by") else ""
        answer(f"manifest {report['manifest_digest']}{signed}")
    failed = "FAILED" if report["from_build"] else f"FAILED: see {report['bundle']}/report.html"
    answer("passed" if report["passed"] else failed)


def _images(rows: list[dict[str, Any]]) -> Iterator[str]:
    """One line per runtime: the worst of its pictures."""
    for runtime in dict.fromkeys(row["runtime"] for row in rows):
        own = [row for row in rows if row["runtime"] == runtime]
        verdict = _verdict({"passed": all(row["passed"] for row in own)})
        psnr, ssim = (min(known(row[key] for row in own), default=None) for key in ("psnr_db", "ssim"))
        figures = f"PSNR {number(psnr, '.1f')} dB  SSIM {number(ssim, '.6f')}"
        yield f"  {verdict}  {runtime:<12} {len(own)} pictures: {figures} (the worst of each)"


def _verdict(row: dict[str, Any]) -> str:
    return "ok  " if row["passed"] else "FAIL"


def _figures(row: dict[str, Any]) -> str:
    if row["problem"] is not None:
        return str(row["problem"])
    decibel = [f"{name} {number(row[key], '.1f')} dB" for name, key in (("PSNR", "psnr_db"), ("SNR", "snr_db"))]
    figures = f"max {number(row['max_abs'], '.2e')}  cos {number(row['cosine'], '.6f')}  {'  '.join(decibel)}"
    return figures + left_out(row)
