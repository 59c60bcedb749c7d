"""SSIM and PSNR of final samples, on values that have a closed form."""

from __future__ import annotations

import numpy as np
import pytest

from dsr_export.parity.checks.pictures import K1, picture_rows, ssim, ssim_floor
from dsr_export.parity.tolerances import TOLERANCES

FP16 = TOLERANCES["fp16"]


def _pictures() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (3, 2, 16, 16)).astype(np.float32)


def test_equal_pictures_are_perfect() -> None:
    rows = picture_rows(_pictures(), _pictures(), "onnxruntime", FP16)
    assert [(row.image, row.ssim, row.psnr_db) for row in rows] == [(i, pytest.approx(1.0), 300.0) for i in range(3)]
    assert all(row.passed for row in rows)


def test_flat_pictures_differ_by_their_luminance_alone() -> None:
    a, b, c1 = 0.5, 0.25, K1**2
    flat = np.full((1, 16, 16), a), np.full((1, 16, 16), b)
    assert ssim(*flat, 1.0) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1))


def test_a_negative_is_unlike() -> None:
    contrast = 0.4 * _pictures()[0]
    assert ssim(0.5 + contrast, 0.5 - contrast, 1.0) < -0.5


def test_one_bad_picture_is_named_by_its_number() -> None:
    sample = _pictures()
    sample[1] = sample[1, :, ::-1]
    assert [row.image for row in picture_rows(_pictures(), sample, "onnxruntime", FP16) if not row.passed] == [1]


def test_pictures_smaller_than_the_window_are_compared_whole() -> None:
    tiny = _pictures()[:, :, :3, :3]
    assert picture_rows(tiny, tiny, "onnxruntime", FP16)[0].ssim == pytest.approx(1.0)


@pytest.mark.parametrize("precision", list(TOLERANCES))
@pytest.mark.parametrize("noisy", [True, False])
def test_an_error_that_psnr_allows_does_not_fail_by_ssim(precision: str, noisy: bool) -> None:
    """On a dark picture, where it weighs most; an offset of it all more than noise."""
    tolerance = TOLERANCES[precision]  # type: ignore[index]
    truth = np.zeros((1, 1, 64, 64))
    truth[0, 0, 0, 0] = 1.0
    error = np.random.default_rng(1).standard_normal(truth.shape) if noisy else np.ones(truth.shape)
    allowed = error * 10 ** (-(tolerance.psnr_db + 0.5) / 20)
    (row,) = picture_rows(truth, truth + allowed, "onnxruntime", tolerance)
    assert row.passed and row.ssim < 1
    (worse,) = picture_rows(truth, truth + 100 * allowed, "onnxruntime", tolerance)
    assert worse.ssim < ssim_floor(tolerance) and not worse.passed
