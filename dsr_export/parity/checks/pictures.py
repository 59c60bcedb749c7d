"""The final samples of a trajectory as pictures: PSNR and SSIM of each, per seed.

SSIM: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity",
IEEE TIP 13(4), 2004; with a uniform window, over each channel, in the range of the reference's whole batch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.parity.decibels import decibels
from dsr_export.parity.tolerances import Tolerance

Array = npt.NDArray[Any]
WINDOW = 7
K1, K2 = 0.01, 0.03


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """One image of the final sample; `ssim_floor` is what it has to reach."""

    runtime: str
    image: int
    psnr_db: float
    ssim: float
    psnr_floor_db: float
    ssim_floor: float

    @property
    def passed(self) -> bool:
        return self.psnr_db >= self.psnr_floor_db and self.ssim >= self.ssim_floor

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def picture_rows(truth: Array, sample: Array, runtime: str, tolerance: Tolerance) -> list[PictureRow]:
    """Each image of `sample` [n, C, H, W] against `truth`; both finite and of one shape."""
    span = float(truth.max() - truth.min()) or 1.0
    return [
        PictureRow(
            runtime=runtime,
            image=i,
            psnr_db=_psnr(a.astype(np.float64), b.astype(np.float64), span),
            ssim=ssim(a, b, span),
            psnr_floor_db=tolerance.psnr_db,
            ssim_floor=ssim_floor(tolerance),
        )
        for i, (a, b) in enumerate(zip(truth, sample, strict=True))
    ]


def ssim(truth: Array, picture: Array, span: float) -> float:
    """Mean structural similarity of two pictures [C, H, W] whose values range over `span`; 1 for equal ones."""
    a, b = truth.astype(np.float64), picture.astype(np.float64)
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    mean_a, mean_b = _windowed(a), _windowed(b)
    var_a, var_b = _windowed(a * a) - mean_a**2, _windowed(b * b) - mean_b**2
    covariance = _windowed(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((likeness / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def ssim_floor(tolerance: Tolerance) -> float:
    """What an error at the PSNR that `tolerance` allows may leave of a dark, flat picture, all of it an offset.

    A picture that is below it is wrong in its structure, whatever its PSNR.
    """
    return K1**2 / (K1**2 + 10 ** (-tolerance.psnr_db / 10))


def _psnr(truth: Array, picture: Array, span: float) -> float:
    noise = float(np.square(picture - truth).mean())
    return float(decibels(span**2, noise))


def _windowed(values: Array) -> Array:
    """Mean over each window that lies inside, [C, H', W']."""
    size = tuple(min(WINDOW, side) for side in values.shape[1:])
    windows = np.lib.stride_tricks.sliding_window_view(values, size, axis=(1, 2))
    return np.asarray(windows.mean(axis=(-2, -1)))
