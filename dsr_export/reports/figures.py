"""Figures of a report in words: one that was not measured, or is not finite, is a dash, never an error."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any, TypeGuard

DASH = "\N{EN DASH}"


def is_known(value: Any) -> TypeGuard[float]:
    """Whether there is a finite number, and not an integer that no float can hold."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def number(value: Any, form: str, unit: str = "") -> str:
    """`value` in the given form and with its unit, or a dash. Other versions may have written a count as a float."""
    if not is_known(value):
        return DASH
    return f"{int(value) if form == 'd' else value:{form}}{unit}"


def known(values: Iterable[Any]) -> list[float]:
    """The finite ones, in order."""
    return [value for value in values if is_known(value)]


def share(value: Any, whole: Any) -> float:
    """`value / whole`, 0 where that says nothing."""
    return value / whole if is_known(value) and is_known(whole) and whole else 0.0


def reaches(value: Any, least: Any) -> bool:
    """Whether a figure is known to be no less than its bound."""
    return is_known(value) and is_known(least) and value >= least


def as_float(value: Any) -> float:
    """For charts, which leave a gap where a figure is NaN."""
    return float(value) if is_known(value) else math.nan
