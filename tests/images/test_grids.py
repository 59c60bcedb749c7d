"""Grids as one can see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsr_export.errors import ExportError
from dsr_export.images.grids import save_grid


def test_a_grid_shows_each_image_in_its_place_and_brightness(tmp_path: Path) -> None:
    images = np.stack([np.full((1, 16, 16), value, np.float32) for value in (-1, 0, 1, 7, -7)])
    save_grid(images, tmp_path / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.shape == (2 * 64 + 2, 3 * 64 + 4, 3)
    assert [int(picture[10, 10 + 66 * i, 0]) for i in range(3)] == [0, 128, 255]
    assert [int(picture[80, 10 + 66 * i, 0]) for i in range(3)] == [255, 0, 255]  # clipped, then an empty place


def test_latents_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="768 channels are no picture"):
        save_grid(np.zeros((1, 768, 2, 2), np.float32), tmp_path / "grid.png")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="can't write"):
        save_grid(np.zeros((1, 1, 2, 2), np.float32), tmp_path / "missing" / "grid.png")
