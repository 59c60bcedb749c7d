"""The words of a report that its files share: what a row is called, its figures, and by how much it misses."""

from __future__ import annotations

from dsr_export.parity.tolerances import IDENTICAL_DB
from dsr_export.reports.figures import DASH, is_known, number, reaches
from dsr_export.reports.reading import words
from dsr_export.reports.record import Check, NotRun, Picture, Report, Row


def model_name(report: Report) -> str:
    """The model's, or the bundle's where an old report does not say."""
    model = report.section("model")
    return (model and words(model, "name")) or report.bundle


def row_name(row: Row) -> str:
    """`batch-8 out on onnxruntime`, after the component it is of."""
    return f"{row_prefix(row)}{row.check} {row.output} on {row.ran}"


def check_name(check: Check) -> str:
    """`decoder: passed when built`."""
    return row_prefix(check) + check.of.replace("_", " ")


def check_figures(check: Check) -> str:
    """What was measured, or what is wrong where that is no figure."""
    return check.problem or f"{number(check.value, '.3f')}, at least {number(check.limit, '.2f')} needed"


def not_run(report: Report) -> list[str]:
    """A sentence for each engine that was not run: the verdict is not about it. Old reports do not say."""
    return [f"{row_prefix(each)}{each.engine} was not run here: {each.reason}" for each in report.engines_not_run]


def row_prefix(row: Row | Check | NotRun) -> str:
    return "" if row.component is None else f"{row.component}: "


def owned(component: str | None, name: str) -> str:
    """`decoder/image`: a name after the component it is of."""
    return name if component is None else f"{component}/{name}"


def decibels(value: float | None) -> str:
    """One decimal; equality has no finite figure."""
    return "identical" if reaches(value, IDENTICAL_DB) else number(value, ".1f")


def row_figures(row: Row) -> str:
    """Every figure of a comparison, or why there is none."""
    if row.problem is not None:
        return row.problem
    values = f"PSNR {decibels(row.psnr_db)} dB, SNR {decibels(row.snr_db)} dB"
    largest, mean = number(row.max_abs, ".3g"), number(row.mean_abs, ".3g")
    return f"max abs {largest}, mean abs {mean}, cosine {number(row.cosine, '.6f')}, {values}{left_out(row)}"


def left_out(row: Row) -> str:
    """What the figures of a comparison are not of."""
    count = number(row.non_finite, "d")
    return f", without {count} values that are NaN or infinite in the reference, too" if row.non_finite else ""


def shortfalls(row: Row) -> list[str]:
    """The bounds that the row misses, each with what was measured; empty where it passed."""
    if row.passed:
        return []
    if row.problem is not None:
        return [row.problem]
    bounds, missed = row.tolerance, []
    largest = most_allowed(row)
    if largest is not None and not reaches(largest, row.max_abs):
        missed.append(f"max abs {number(row.max_abs, '.3g')}, at most {number(largest, '.3g')} allowed")
    if not reaches(row.cosine, bounds.cosine):
        missed.append(f"cosine {number(row.cosine, '.6f')}, at least {number(bounds.cosine, 'g')} needed")
    decibel = (("PSNR", row.psnr_db, bounds.psnr_db), ("SNR", row.snr_db, bounds.snr_db))
    for name, value, least in decibel:
        if not reaches(value, least):
            missed.append(f"{name} {number(value, '.1f', ' dB')}, at least {number(least, 'g', ' dB')} needed")
    return missed


def most_allowed(row: Row) -> float | None:
    """The largest error that the row's tolerance allows, relative to its range; None where it sets no bound."""
    bound, spread = row.tolerance.max_abs, row.range
    return bound * max(1.0, spread if is_known(spread) else 0.0) if is_known(bound) else None


def failed_pictures(report: Report) -> list[Picture]:
    """Images at the end of a trajectory that did not pass; old reports have none."""
    return [each for each in report.images if not each.passed]


def picture_shortfalls(picture: Picture) -> str:
    """By how much a picture misses its bounds."""
    metrics = (("PSNR", picture.psnr_db, picture.psnr_floor_db, " dB"), ("SSIM", picture.ssim, picture.ssim_floor, ""))
    missed = [
        f"{name} {number(value, '.6g', unit)}, at least {number(floor, '.6g', unit)} needed"
        for name, value, floor, unit in metrics
        if not reaches(value, floor)
    ]
    return f"picture {number(picture.image, 'g')}: {'; '.join(missed) or 'failed'}"


def failed(report: Report) -> tuple[list[Row], list[Check]]:
    """Rows and checks that did not pass."""
    return [row for row in report.parity if not row.passed], [each for each in report.checks if not each.passed]


def file_size(count: float | None) -> str:
    """Bytes in the unit that leaves up to three digits before the point."""
    if not is_known(count):
        return DASH
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def duration(seconds: float | None) -> str:
    """`0.17 s`, `35 s`, `2 min 5 s`."""
    if not is_known(seconds):
        return DASH
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
