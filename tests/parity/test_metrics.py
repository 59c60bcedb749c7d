"""Comparison metrics: exact on known errors, and failing before any subtraction on what can't be compared."""

from __future__ import annotations

import numpy as np
import pytest

from dsr_export.parity.decibels import IDENTICAL_DB
from dsr_export.parity.metrics import Comparison, compare
from dsr_export.parity.tolerances import TOLERANCES


def _wave(rows: int = 3) -> np.ndarray:
    return np.sin(np.arange(rows * 1000, dtype=np.float32)).reshape(rows, 1000)


def test_identical_arrays_are_perfect_at_every_precision() -> None:
    found = compare(_wave(), _wave())
    assert (found.max_abs, found.cosine, found.snr_db, found.psnr_db) == (0.0, 1.0, IDENTICAL_DB, IDENTICAL_DB)
    assert all(found.within(tolerance) for tolerance in TOLERANCES.values())


def test_a_known_error_has_its_decibels() -> None:
    """Noise of a tenth of the signal's root mean square is 20 dB, whatever the signal."""
    truth = np.ones((2, 100), np.float32) * np.array([[1.0], [-1.0]], np.float32)
    found = compare(truth, truth * np.float32(1.1))
    assert found.snr_db == pytest.approx(20.0, abs=1e-4)
    assert found.psnr_db == pytest.approx(20.0 + 20 * np.log10(2), abs=1e-4)  # the range is 2
    assert found.cosine == pytest.approx(1.0)


def test_one_bad_row_is_not_averaged_away() -> None:
    candidate = _wave(100)
    candidate[7] *= -1
    found = compare(_wave(100), candidate)
    assert found.cosine == pytest.approx(-1.0)
    assert not found.within(TOLERANCES["int8"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_non_finite_values_fail_with_their_count(value: float, side: str) -> None:
    arrays = {"reference": _wave(), "candidate": _wave()}
    arrays[side][1, 5] = value
    found = compare(arrays["reference"], arrays["candidate"])
    assert found.problem == f"1 of 3000 values of the {side} are NaN or infinite"
    assert not found.within(TOLERANCES["int8"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_both_have_alike_is_no_error_and_in_no_figure(value: float) -> None:
    truth, candidate = _wave(), _wave() * np.float32(1.1)
    expected = compare(np.delete(truth, 5, axis=1), np.delete(candidate, 5, axis=1))
    truth[:, 5] = candidate[:, 5] = value
    found = compare(truth, candidate)
    assert (found.snr_db, found.psnr_db, found.max_abs) == pytest.approx(
        (expected.snr_db, expected.psnr_db, expected.max_abs)
    )
    assert (found.non_finite, found.as_dict()["non_finite"], found.problem) == (3, 3, None)
    assert "non_finite" not in expected.as_dict()


def test_another_kind_in_the_same_place_fails() -> None:
    truth, candidate = _wave(), _wave()
    truth[1, 5], candidate[1, 5] = np.inf, -np.inf
    assert compare(truth, candidate).problem == "1 of 3000 values of the reference are NaN or infinite"


def test_nothing_but_nan_proves_nothing() -> None:
    nothing = np.full((2, 4), np.nan, np.float32)
    found = compare(nothing, nothing)
    assert found.problem == "all 8 values of the reference are NaN or infinite, so that nothing can be compared"
    assert not found.within(TOLERANCES["int8"])


@pytest.mark.parametrize("dtype", [np.bool_, np.int64])
def test_flags_and_integers_are_compared(dtype: type) -> None:
    truth = np.array([[0, 1], [1, 0]], dtype)
    assert compare(truth, truth).within(TOLERANCES["fp32"])
    assert not compare(truth, truth[::-1]).within(TOLERANCES["int8"])


def test_shape_and_type_are_compared_first() -> None:
    assert compare(_wave(3), _wave(2)).problem == "shape (2, 1000) where (3, 1000) is expected"
    assert compare(_wave(), _wave().astype(np.float64)).problem == "type float64 where float32 is expected"


def test_zero_rows_are_alike_and_a_lost_signal_is_not() -> None:
    zeros = np.zeros((2, 4), np.float32)
    assert compare(zeros, zeros).within(TOLERANCES["fp32"])
    assert not compare(_wave(), np.zeros_like(_wave())).within(TOLERANCES["int8"])


def test_max_abs_bound_grows_with_the_range() -> None:
    truth = _wave() * 1000
    candidate = truth.copy()
    candidate[0, 0] += 0.1
    assert compare(truth, candidate).within(TOLERANCES["fp32"])
    candidate[0, 0] += 0.2
    assert not compare(truth, candidate).within(TOLERANCES["fp32"])


def test_a_comparison_without_figures_never_passes() -> None:
    assert not Comparison().within(TOLERANCES["int8"])
