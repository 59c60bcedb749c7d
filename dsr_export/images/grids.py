"""Image grids as PNG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError
from dsr_export.storage.atomic import atomic_file

Array = npt.NDArray[Any]
MIN_SIDE = 64  # pixels; smaller images are enlarged so that one can see them
GAP = 2


def save_grid(images: Array, path: Path) -> None:
    """Writes `images [n, C, H, W]` in [-1, 1], C 1 or 3, as one near-square PNG grid.

    Raises:
        ExportError: the images have another number of channels, or the file can't be written.
    """
    from PIL import Image

    if images.shape[1] not in (1, 3):
        raise ExportError(
            f"{images.shape[1]} channels are no picture: the model makes latents, which need their decoder",
            hint="build the bundle with --component DECODER.dsr; `dsr-export run` gives the raw outputs",
        )
    picture = Image.fromarray(_grid(_enlarged(_bytes(images))))
    with atomic_file(path) as temporary:
        picture.save(temporary, format="PNG")


def save_pictures(pictures: Array, path: Path) -> None:
    """Writes `pictures [n, H, W, 3]` uint8 as a PNG of their own size, or several as one near-square grid."""
    from PIL import Image

    picture = Image.fromarray(pictures[0] if len(pictures) == 1 else _grid(pictures))
    with atomic_file(path) as temporary:
        picture.save(temporary, format="PNG")


def _bytes(images: Array) -> Array:
    """[n, H, W, 3] uint8."""
    scaled = np.clip(np.nan_to_num(images) * 127.5 + 127.5, 0, 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return np.repeat(scaled, 3, axis=3) if scaled.shape[3] == 1 else scaled


def _enlarged(images: Array) -> Array:
    factor = max(1, math.ceil(MIN_SIDE / images.shape[1]))
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def _grid(images: Array) -> Array:
    count, height, width, _ = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet
