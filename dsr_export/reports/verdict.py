"""The top of the page: whether the bundle may be used, and what speaks for it or against it."""

from __future__ import annotations

import shlex
from operator import itemgetter

from dsr_export.html.page import Verdict
from dsr_export.parity.tolerances import IDENTICAL_DB
from dsr_export.reports.figures import is_known, number
from dsr_export.reports.reading import Entry, number_in, words
from dsr_export.reports.record import Report
from dsr_export.reports.wording import (
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


def verdict(report: Report) -> Verdict:
    """One sentence, and the figures behind it."""
    name = f"{model_name(report)} in {report.precision.upper()}"
    if report.passed:
        return Verdict(
            tone="good",
            headline=f"{name} passed: every comparison is within its tolerance.",
            details=(*_closest(report), *(f"{line}." for line in not_run(report))),
            command=f"dsr-export verify {shlex.quote(report.bundle)}",
            why="Check it again on the device it will run on:",
        )
    return Verdict(tone="bad", headline=f"{name} failed: {_extent(report)}.", details=tuple(_reasons(report)))


def _closest(report: Report) -> list[str]:
    """The comparison with the least to spare."""
    found = [
        (row.snr_db - row.tolerance.snr_db, row.snr_db, row.tolerance.snr_db, row_name(row))
        for row in report.parity
        if is_known(row.snr_db) and row.snr_db < IDENTICAL_DB and is_known(row.tolerance.snr_db)
    ]
    if not found:
        return ["The numbers are identical."] if report.parity else []
    _, value, bound, name = min(found, key=itemgetter(0))
    return [f"Closest to its bound: {name}, SNR {value:.1f} dB where {bound:g} dB are needed."]


def _extent(report: Report) -> str:
    rows, checks = failed(report)
    parts = [f"{len(rows)} of {_counted(len(report.parity), 'comparison')} out of tolerance"] if rows else []
    parts += [f"{len(checks)} of {_counted(len(report.checks), 'check')} not met"] if checks else []
    pictures = failed_pictures(report)
    parts += [f"{len(pictures)} of {_counted(len(report.images), 'picture')} not alike"] if pictures else []
    return " and ".join(parts) or "nothing was compared"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _reasons(report: Report) -> list[str]:
    rows, checks = failed(report)
    said = [f"{check_name(check)}: {check_figures(check)}." for check in checks]
    said += [f"{row_name(row)}: {'; '.join(shortfalls(row))}." for row in rows]
    said += [f"{each.runtime}: {picture_shortfalls(each)}." for each in failed_pictures(report)]
    first = [_first_site(Entry("bisection", report.bisection))] if report.bisection else []
    more = [f"And {len(said) - SHOWN} more, in the table below."] if len(said) > SHOWN else []
    return [*first, *said[:SHOWN], *more]


def _first_site(found: Entry) -> str:
    site, problem = words(found, "site"), words(found, "problem")
    if site is None:
        return f"No site is out of tolerance by itself: {problem or 'the error is not that of one place'}."
    of = f" (module {module})" if (module := words(found, "module")) else ""
    bound = number_in(found, "tolerance_db")
    needed = f" where {bound:g} dB are needed" if is_known(bound) else ""
    measured = problem or f"with an SNR of {number(number_in(found, 'snr_db'), '.1f', ' dB')}{needed}"
    return f"The first site out of tolerance is {site}{of}, {measured}."
