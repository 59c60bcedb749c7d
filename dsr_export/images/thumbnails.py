"""Pictures in the sizes of a page."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SIDE = 128  # pixels
SMALL = 64  # pixels: smaller pictures are enlarged so that one can see them


def thumbnails(pictures: Array) -> Array:
    """Pictures [n, H, W, C] uint8 with no side over `SIDE`: smaller ones as they are, others averaged down."""
    from PIL import Image

    height, width = pictures.shape[1:3]
    factor = max(height, width) / SIDE
    if factor <= 1:
        return pictures
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    rows = [np.asarray(Image.fromarray(each.squeeze()).resize(size, Image.Resampling.BOX)) for each in pictures]
    return np.stack(rows).reshape(len(rows), size[1], size[0], pictures.shape[3])


def enlarged(pictures: Array) -> Array:
    """Pictures [n, H, W, C] of at least `SMALL` pixels, each of theirs repeated."""
    factor = max(1, SMALL // pictures.shape[1])
    return pictures.repeat(factor, axis=1).repeat(factor, axis=2)
