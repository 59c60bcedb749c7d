"""What two pictures differ by, for each pair of n: squared error, SSIM."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError
from dsr_export.evaluation.distances import fid_module
from dsr_export.evaluation.features.extractor import as_tensor

Array = npt.NDArray[Any]
PEAK = 255.0
WINDOW = 11  # pixels: SSIM's Gaussian window


def squared_errors(one: Array, other: Array) -> Array:
    """The mean squared difference of pixels, [n] float64, of pictures [n, H, W, C] uint8."""
    apart = one.astype(np.int32) - other  # squares of 8 bits fit, and sums are of float64
    return np.asarray(np.square(apart).mean(axis=(1, 2, 3)))


def psnr(squared_error: float) -> float:
    """Peak signal to noise ratio in dB of pictures with values to 255; infinite for equal ones."""
    return float(10 * np.log10(PEAK**2 / squared_error)) if squared_error else float("inf")


def ssim(one: Array, other: Array) -> Array:
    """Structural similarity (Z. Wang et al., 2004) [n] float64, by torchmetrics. ExportError below 11x11 pixels."""
    if min(one.shape[1:3]) < WINDOW:
        size = "x".join(map(str, one.shape[1:3]))
        raise ExportError(f"SSIM is not defined for pictures of {size}", hint=f"they need {WINDOW} pixels a side")
    fid_module()
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = []
    for i in range(len(one)):  # in float64, and five times that beside it: one picture fits in memory
        first, second = (as_tensor(each[i : i + 1]).double() for each in (one, other))
        made = structural_similarity_index_measure(first, second, data_range=PEAK, reduction="none")
        found.append(np.asarray(made).reshape(-1))
    return np.concatenate(found)
