"""The top of the page: whether the bundle may be used, and what speaks for it or against it."""

from __future__ import annotations

import shlex

from dsr_export.html.page import Verdict
from dsr_export.parity.decibels import IDENTICAL_DB
from dsr_export.reports.figures import is_known, number
from dsr_export.reports.wording import (
    Row,
    check_figures,
    check_name,
    failed,
    failed_pictures,
    model_name,
    not_run,
    picture_shortfalls,
    row_name,
    shortfalls,
)

SHOWN = 4


def verdict(report: Row) -> Verdict:
    """One sentence, and the figures behind it."""
    name = f"{model_name(report)} in {str(report['precision']).upper()}"
    if report["passed"]:
        return Verdict(
            tone="good",
            headline=f"{name} passed: every comparison is within its tolerance.",
            details=(*_closest(report), *(f"{line}." for line in not_run(report))),
            command=f"dsr-export verify {shlex.quote(str(report['bundle']))}",
            why="Check it again on the device it will run on:",
        )
    return Verdict(tone="bad", headline=f"{name} failed: {_extent(report)}.", details=tuple(_reasons(report)))


def _closest(report: Row) -> list[str]:
    """The comparison with the least to spare."""
    rows = [row for row in report["parity"] if is_known(row["snr_db"]) and row["snr_db"] < IDENTICAL_DB]
    rows = [row for row in rows if is_known(row["tolerance"]["snr_db"])]
    if not rows:
        return ["The numbers are identical."] if report["parity"] else []
    least = min(rows, key=lambda row: row["snr_db"] - row["tolerance"]["snr_db"])
    bound = least["tolerance"]["snr_db"]
    return [f"Closest to its bound: {row_name(least)}, SNR {least['snr_db']:.1f} dB where {bound:g} dB are needed."]


def _extent(report: Row) -> str:
    rows, checks = failed(report)
    parts = [f"{len(rows)} of {_counted(len(report['parity']), 'comparison')} out of tolerance"] if rows else []
    parts += [f"{len(checks)} of {_counted(len(report['checks']), 'check')} not met"] if checks else []
    pictures = failed_pictures(report)
    parts += [f"{len(pictures)} of {_counted(len(report['images']), 'picture')} not alike"] if pictures else []
    return " and ".join(parts) or "nothing was compared"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _reasons(report: Row) -> list[str]:
    rows, checks = failed(report)
    said = [f"{check_name(check)}: {check_figures(check)}." for check in checks]
    said += [f"{row_name(row)}: {'; '.join(shortfalls(row))}." for row in rows]
    said += [f"{each['runtime']}: {picture_shortfalls(each)}." for each in failed_pictures(report)]
    found = report.get("bisection")
    first = [_first_site(found)] if found else []
    more = [f"And {len(said) - SHOWN} more, in the table below."] if len(said) > SHOWN else []
    return [*first, *said[:SHOWN], *more]


def _first_site(found: Row) -> str:
    if found["site"] is None:
        return f"No site is out of tolerance by itself: {found.get('problem') or 'the error is not that of one place'}."
    of = f" (module {found['module']})" if found.get("module") else ""
    bound = f" where {found['tolerance_db']:g} dB are needed" if is_known(found.get("tolerance_db")) else ""
    figure = found.get("problem") or f"with an SNR of {number(found['snr_db'], '.1f', ' dB')}{bound}"
    return f"The first site out of tolerance is {found['site']}{of}, {figure}."
