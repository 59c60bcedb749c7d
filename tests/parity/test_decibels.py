"""The one formula behind SNR and PSNR, at its ends as well."""

from __future__ import annotations

import numpy as np

from dsr_export.parity.decibels import IDENTICAL_DB, decibels


def test_each_row_has_its_decibels() -> None:
    np.testing.assert_allclose(decibels(np.array([1.0, 4.0]), np.array([0.01, 4.0])), [20.0, 0.0], atol=1e-12)


def test_no_noise_is_identical_and_no_signal_the_opposite() -> None:
    found = decibels(np.array([1.0, 0.0, 0.0, 1e300]), np.array([0.0, 0.0, 1.0, 1e-300]))
    assert found.tolist() == [IDENTICAL_DB, IDENTICAL_DB, -IDENTICAL_DB, IDENTICAL_DB]


def test_what_is_nan_stays_nan() -> None:
    assert np.isnan(decibels(np.array([np.nan, 1.0]), np.array([1.0, np.nan]))).all()
    assert float(decibels(2.0, 0.0)) == IDENTICAL_DB
