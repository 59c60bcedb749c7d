"""Limits on figures."""

from __future__ import annotations

import math

import pytest

from dsr_export.errors import ExportError
from dsr_export.evaluation.gate import Limit, check_limits, rulings
from dsr_export.evaluation.metrics import METRICS, parsed
from dsr_export.evaluation.summary import Interval, Line


def _line(name: str, value: float, reference: float | None = None) -> Line:
    other = None if reference is None else Interval(reference)
    return Line(metric=METRICS[name], value=Interval(value), reference=other)


@pytest.mark.parametrize(
    ("side", "text", "value", "reference", "passes"),
    [
        ("max", "2", 2.0, None, True),
        ("max", "2", 2.001, None, False),
        ("max", "+0.5", 2.5, 2.0, True),
        ("max", "+0.5", 2.6, 2.0, False),
        ("min", "-0.5", 1.5, 2.0, True),
        ("min", "-0.5", 1.4, 2.0, False),
        ("min", "-0.05", 0.85, 0.9, True),  # whose sum is 0.8500000000000001
        ("max", "+0.1", 0.3, 0.2, True),
        ("max", "+0.1", 0.3000001, 0.2, False),
        ("max", "+0.1", math.nan, 0.2, False),
        ("max", "+0.1", 0.3, math.nan, False),
        ("min", "2", math.nan, None, False),
        ("max", "2", math.nan, None, False),
    ],
)
def test_a_figure_is_held_to_its_bound(
    side: str, text: str, value: float, reference: float | None, passes: bool
) -> None:
    limit = Limit.parse(side, "fid", text)  # type: ignore[arg-type]
    (ruling,) = rulings([limit], [_line("fid", value, reference)])
    assert ruling.passed is passes


def test_equal_pictures_hold_any_psnr() -> None:
    (ruling,) = rulings([Limit.parse("min", "psnr", "99")], [_line("psnr", math.inf)])
    assert ruling.passed


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("fid", "x", "has no number"),
        ("fid", "nan", "has no number"),
        ("fid", "inf", "has no number"),
        ("fit", "1", "no metric 'fit'"),
        ("psnr", "+1", "distance to the reference already"),
    ],
)
def test_limits_that_say_nothing_are_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        Limit.parse("max", name, text)


def test_limits_on_what_is_not_measured_are_refused() -> None:
    with pytest.raises(ExportError, match="'fid' is not measured"):
        check_limits([Limit.parse("max", "fid", "1")], parsed("psnr"), paired=True)
    with pytest.raises(ExportError, match="relative to a reference"):
        check_limits([Limit.parse("max", "fid", "+1")], parsed("fid"), paired=False)


def test_unknown_metrics_get_the_nearest_name() -> None:
    with pytest.raises(ExportError) as caught:
        parsed("psnr,fidd")
    assert "fid" in str(caught.value.hint)
