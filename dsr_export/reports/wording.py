"""The words of a report that its files share: what a row is called, its figures, and by how much it misses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsr_export.parity.decibels import IDENTICAL_DB
from dsr_export.reports.figures import DASH, is_known, number, reaches

Row = Mapping[str, Any]
_DB = (("PSNR", "psnr_db"), ("SNR", "snr_db"))


def model_name(report: Row) -> str:
    """The model's, or the bundle's where an old report does not say."""
    return str(report.get("model", {}).get("name") or report["bundle"])


def row_name(row: Row) -> str:
    """`batch-8 out on onnxruntime`, after the component it is of."""
    return f"{row_prefix(row)}{row['check']} {row['output']} on {row['runtime']}"


def check_name(check: Row) -> str:
    """`decoder: passed when built`."""
    return row_prefix(check) + str(check["name"]).replace("_", " ")


def check_figures(check: Row) -> str:
    """What was measured, or what is wrong where that is no figure."""
    if check.get("problem"):
        return str(check["problem"])
    return f"{number(check['value'], '.3f')}, at least {number(check['limit'], '.2f')} needed"


def not_run(report: Row) -> list[str]:
    """A sentence for each engine that was not run: the verdict is not about it. Old reports do not say."""
    engines = report.get("engines_not_run", [])
    return [f"{row_prefix(each)}{each['engine']} was not run here: {each['reason']}" for each in engines]


def row_prefix(row: Row) -> str:
    return f"{row['component']}: " if "component" in row else ""


def owned(row: Row, key: str) -> str:
    """`decoder/image`: what the row calls it, after the component it is of."""
    return f"{row['component']}/{row[key]}" if "component" in row else str(row[key])


def decibels(value: float | None) -> str:
    """One decimal; equality has no finite figure."""
    return "identical" if reaches(value, IDENTICAL_DB) else number(value, ".1f")


def row_figures(row: Row) -> str:
    """Every figure of a comparison, or why there is none."""
    if row["problem"] is not None:
        return str(row["problem"])
    values = ", ".join(f"{name} {decibels(row[key])} dB" for name, key in _DB)
    largest, mean = (f"{name} abs {number(row[f'{name}_abs'], '.3g')}" for name in ("max", "mean"))
    return f"{largest}, {mean}, cosine {number(row['cosine'], '.6f')}, {values}{left_out(row)}"


def left_out(row: Row) -> str:
    """What the figures of a comparison are not of."""
    count = row.get("non_finite", 0)
    return f", without {number(count, 'd')} values that are NaN or infinite in the reference, too" if count else ""


def shortfalls(row: Row) -> list[str]:
    """The bounds that the row misses, each with what was measured; empty where it passed."""
    if row["passed"]:
        return []
    if row["problem"] is not None:
        return [str(row["problem"])]
    tolerance, missed = row["tolerance"], []
    largest = most_allowed(row)
    if largest is not None and not reaches(largest, row["max_abs"]):
        missed.append(f"max abs {number(row['max_abs'], '.3g')}, at most {number(largest, '.3g')} allowed")
    if not reaches(row["cosine"], tolerance["cosine"]):
        missed.append(f"cosine {number(row['cosine'], '.6f')}, at least {number(tolerance['cosine'], 'g')} needed")
    for name, key in _DB:
        if not reaches(row[key], tolerance[key]):
            measured, needed = number(row[key], ".1f", " dB"), number(tolerance[key], "g", " dB")
            missed.append(f"{name} {measured}, at least {needed} needed")
    return missed


def most_allowed(row: Row) -> float | None:
    """The largest error that the row's tolerance allows, relative to its range; None where it sets no bound."""
    bound, spread = row["tolerance"]["max_abs"], row["range"]
    return bound * max(1.0, spread if is_known(spread) else 0.0) if is_known(bound) else None


def failed_pictures(report: Row) -> list[Row]:
    """Images at the end of a trajectory that did not pass; old reports have none."""
    return [each for each in report.get("images", []) if not each["passed"]]


def picture_shortfalls(picture: Row) -> str:
    """By how much a picture misses its bounds."""
    metrics = (("PSNR", "psnr_db", "psnr_floor_db", " dB"), ("SSIM", "ssim", "ssim_floor", ""))
    missed = [
        f"{name} {number(picture[key], '.6g', unit)}, at least {number(picture[floor], '.6g', unit)} needed"
        for name, key, floor, unit in metrics
        if not reaches(picture[key], picture[floor])
    ]
    return f"picture {number(picture['image'], 'g')}: {'; '.join(missed) or 'failed'}"


def failed(report: Row) -> tuple[list[Row], list[Row]]:
    """Rows and checks that did not pass."""
    rows, checks = ([each for each in report[key] if not each["passed"]] for key in ("parity", "checks"))
    return rows, checks


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
