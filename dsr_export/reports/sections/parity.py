"""Every comparison and check of a report, as tables."""

from __future__ import annotations

from dsr_export.html.cells import rich_table, verdict_cell, words
from dsr_export.html.markup import Markup, element, joined, text
from dsr_export.html.page import Section, figure
from dsr_export.reports import reading
from dsr_export.reports.figures import DASH, is_known, number
from dsr_export.reports.record import Check, Report, Row
from dsr_export.reports.wording import check_name, decibels, row_name, row_prefix

# The verdict and its figures first: the rest may scroll out of a phone's screen.
_HEADER = ("comparison", "verdict", "SNR, dB", "PSNR, dB", "cosine", "largest error", "mean error", "output", "runtime")


def parity_section(report: Report) -> Section | None:
    """None only where nothing was compared and nothing checked."""
    if not report.parity and not report.checks:
        return None
    figures = []
    if report.parity:
        table = rich_table(_HEADER, [_row(row) for row in report.parity])
        figures.append(figure(table, title="Comparisons", caption=_bounds(report)))
        figures += _problems(report)
    if report.checks:
        table = rich_table(("check", "verdict", "measured", "at least"), [_check(check) for check in report.checks])
        figures.append(figure(table, title="Checks"))
    references = dict.fromkeys(row.reference for row in report.parity if row.check != "rows")
    said = (
        f"Each output against {' and '.join(references) or 'the reference'}; a figure is that of its batch's worst "
        "image. In the comparison “rows”, equal images of one batch must come out equal."
    )
    return Section("Verdicts", said + _left_out(report), joined(figures))


def _left_out(report: Report) -> str:
    """What rows of walks and special ones are not compared; reports of older versions do not say."""
    rows = report.section("special_rows")
    left_out = None if rows is None else reading.number_in(rows, "left_out")
    if rows is None or not is_known(left_out) or not left_out:
        return ""
    counts = (
        f"{number(left_out, 'd')} of {number(reading.number_in(rows, 'tried'), 'd')} rows of walks, zeros and the like"
    )
    return f" Not compared: {counts}, for which the reference has no finite answer, or no steady one."


def _row(row: Row) -> list[Markup]:
    head, tail = [text(row_prefix(row) + row.check), verdict_cell(row.passed)], words(row.output, row.ran)
    if row.problem is not None:
        return [*head, *words(DASH, DASH, DASH, DASH, DASH), *tail]
    figures = (decibels(row.snr_db), decibels(row.psnr_db), number(row.cosine, ".7f"))
    return [*head, *words(*figures, number(row.max_abs, ".2e"), number(row.mean_abs, ".2e")), *tail]


def _problems(report: Report) -> list[Markup]:
    """Why rows have no figures: too long for a cell."""
    rows = [(row_name(row), row.problem) for row in report.parity if row.problem is not None]
    said = [element("p", text(f"{name}: {problem}.")) for name, problem in rows]
    return [figure(joined(said), title="Not comparable")] if said else []


def _check(check: Check) -> list[Markup]:
    figures = words(check.problem or number(check.value, ".3f"), number(check.limit, ".2f"))
    return [*words(check_name(check)), verdict_cell(check.passed), *figures]


def _bounds(report: Report) -> str:
    """The tolerances, each once; that for equal rows is stricter."""
    said = dict.fromkeys(_bound(row) for row in report.parity)
    return f"Needed for {'; '.join(said)} ({report.parity[0].tolerance.reason})."


def _bound(row: Row) -> str:
    bound, of = row.tolerance, "" if row.component is None else f"{row.component}, "
    largest = f", largest error {bound.max_abs:g} of the range" if is_known(bound.max_abs) else ""
    which = "equal rows" if row.check == "rows" else "outputs"
    decibel = f"SNR {number(bound.snr_db, 'g')} dB, PSNR {number(bound.psnr_db, 'g')} dB"
    figures = f"{decibel}, cosine {number(bound.cosine, 'g')}"
    return f"{of}{which}: {figures}{largest}"
