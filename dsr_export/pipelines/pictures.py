"""Pictures as diffusers makes them of what a decoder gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pictures(images: Array) -> Array:
    """Pictures [n, C, H, W] in about [-1, 1] -> [n, H, W, C] uint8, as diffusers makes them."""
    shares = np.clip(images * np.float32(0.5) + np.float32(0.5), 0, 1)
    return np.asarray((shares.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8))
