"""The words of a report that its files share: what a row is called, its figures, and by how much it misses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
_DB = (("PSNR", "psnr_db"), ("SNR", "snr_db"))
IDENTICAL = 300.0  # dB; stands for no error at all


def model_name(report: Row) -> str:
    """The model's, or the bundle's where an old report does not say."""
    return str(report.get("model", {}).get("name") or report["bundle"])


def row_name(row: Row) -> str:
    """`batch-8 out on onnxruntime`, after the component it is of."""
    of = f"{row['component']}: " if "component" in row else ""
    return f"{of}{row['check']} {row['output']} on {row['runtime']}"


def check_name(check: Row) -> str:
    """`decoder: passed when built`."""
    of = f"{check['component']}: " if "component" in check else ""
    return of + str(check["name"]).replace("_", " ")


def check_figures(check: Row) -> str:
    return f"{check['value']:.3f}, at least {check['limit']:.2f} needed"


def decibels(value: float | None) -> str:
    """One decimal; equality has no finite figure."""
    if value is None:
        return "\N{EN DASH}"
    return "identical" if value >= IDENTICAL else f"{value:.1f}"


def row_figures(row: Row) -> str:
    """Every figure of a comparison, or why there is none."""
    if row["problem"] is not None:
        return str(row["problem"])
    values = ", ".join(f"{name} {decibels(row[key])} dB" for name, key in _DB)
    figures = f"max abs {row['max_abs']:.3g}, mean abs {row['mean_abs']:.3g}, cosine {row['cosine']:.6f}, {values}"
    return figures + left_out(row)


def left_out(row: Row) -> str:
    """What the figures of a comparison are not of."""
    count = row.get("non_finite", 0)
    return f", without {count} values that are NaN or infinite in the reference, too" if count else ""


def shortfalls(row: Row) -> list[str]:
    """The bounds that the row misses, each with what was measured; empty where it passed."""
    if row["problem"] is not None:
        return [str(row["problem"])]
    tolerance, missed = row["tolerance"], []
    largest = None if tolerance["max_abs"] is None else tolerance["max_abs"] * max(1.0, row["range"] or 0.0)
    if largest is not None and row["max_abs"] > largest:
        missed.append(f"max abs {row['max_abs']:.3g}, at most {largest:.3g} allowed")
    if row["cosine"] < tolerance["cosine"]:
        missed.append(f"cosine {row['cosine']:.6f}, at least {tolerance['cosine']:g} needed")
    for name, key in _DB:
        if row[key] < tolerance[key]:
            missed.append(f"{name} {row[key]:.1f} dB, at least {tolerance[key]:g} dB needed")
    return missed


def failed(report: Row) -> tuple[list[Row], list[Row]]:
    """Rows and checks that did not pass."""
    rows, checks = ([each for each in report[key] if not each["passed"]] for key in ("parity", "checks"))
    return rows, checks


def file_size(count: float) -> str:
    """Bytes in the unit that leaves up to three digits before the point."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def duration(seconds: float) -> str:
    """`0.17 s`, `35 s`, `2 min 5 s`."""
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
