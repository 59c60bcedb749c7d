"""PSNR and SSIM of pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torchmetrics.functional.image import peak_signal_noise_ratio

from dsr_export.errors import ExportError
from dsr_export.evaluation.pair_figures import psnr, squared_errors, ssim


def _pair(side: int = 24, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (3, side, side, channels)).astype(np.uint8)
    noise = rng.integers(-20, 21, one.shape)
    return one, np.clip(one.astype(int) + noise, 0, 255).astype(np.uint8)


def test_psnr_is_that_of_torchmetrics() -> None:
    one, other = _pair()
    wanted = peak_signal_noise_ratio(torch.from_numpy(other).double(), torch.from_numpy(one).double(), data_range=255.0)
    assert psnr(float(squared_errors(one, other).mean())) == pytest.approx(float(wanted), rel=1e-6)


def test_values_far_apart_do_not_wrap() -> None:
    black, white = np.zeros((1, 2, 2, 1), np.uint8), np.full((1, 2, 2, 1), 255, np.uint8)
    assert squared_errors(black, white).tolist() == squared_errors(white, black).tolist() == [255.0**2]


def test_equal_pictures_have_no_noise() -> None:
    one, _ = _pair()
    assert squared_errors(one, one).tolist() == [0, 0, 0] and psnr(0.0) == np.inf
    np.testing.assert_allclose(ssim(one, one), 1, rtol=1e-12)


def test_ssim_is_its_definition() -> None:
    """A Gaussian window of 11 with sigma 1.5, mirrored at the border; the mean of the whole map."""
    one, other = (each[..., :1].astype(float) for each in _pair())
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window /= window.sum()

    def smooth(values: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(values, window, axis=1, mode="mirror"), window, axis=2, mode="mirror")

    a, b = smooth(one), smooth(other)
    spread = smooth(one * one) - a * a + smooth(other * other) - b * b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    made = (2 * a * b + c1) * (2 * (smooth(one * other) - a * b) + c2) / ((a * a + b * b + c1) * (spread + c2))
    wanted = made.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(ssim(one.astype(np.uint8), other.astype(np.uint8)), wanted, rtol=1e-6)


def test_pictures_that_are_too_small_are_refused() -> None:
    one, other = _pair(side=10)
    with pytest.raises(ExportError, match="10x10"):
        ssim(one, other)
