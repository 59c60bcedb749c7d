from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from dsr_export.html.rasters import OUTLIER, data_uri, grid_of, scale_bar, token_maps
from tests.html.reading import svg_of


def picture(markup: str) -> np.ndarray:
    uri = next(svg_of(markup).iter("image")).get("href") or ""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_a_png_comes_back_as_it_was() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 4), np.uint8)
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data_uri(pixels).split(",")[1]))))
    np.testing.assert_array_equal(back, pixels)
    assert data_uri(pixels) == data_uri(pixels.copy())


def test_maps_stand_in_their_places_and_outliers_are_marked() -> None:
    values = np.zeros((2, 3, 4))
    values[1, 2] = [0, 1, 2, 50]
    outliers = values > 10
    made = token_maps(values, outliers, highest=2, rows=["a", "b"], columns=["0", "1", "2"], x_label="x", y_label="y")
    sheet = picture(made)
    assert sheet.shape == (2 * 3 - 1, 3 * 3 - 1, 4)  # 2x2 tokens, one transparent pixel between maps
    assert tuple(sheet[4, 7, :3]) == OUTLIER
    assert (sheet[..., :3] == OUTLIER).all(axis=-1).sum() == 1
    assert not sheet[2, :, 3].any()
    assert not sheet[:, 2, 3].any()
    darkness = sheet[3:5, 6:8, :3].sum(axis=-1)
    assert darkness[0, 0] < darkness[0, 1] < darkness[1, 0]
    assert [node.text for node in svg_of(made).iter("text")] == ["a", "b", "0", "1", "2", "x", "y"]


def test_broken_values_have_a_colour() -> None:
    made = token_maps(
        np.full((1, 1, 3), np.inf),
        np.zeros((1, 1, 3), bool),
        highest=1,
        rows=["r"],
        columns=["c"],
        x_label="",
        y_label="",
    )
    assert picture(made).shape == (1, 3, 4)


def test_grids_and_legends() -> None:
    assert grid_of(256) == (16, 16)
    assert grid_of(257) == (1, 257)
    assert "outlier" in scale_bar("0", "2")
    assert "outlier" not in scale_bar("0", "2", outlier=None)


def test_outlines_leave_the_value_to_be_seen() -> None:
    values = np.zeros((1, 2, 9))
    outliers = np.zeros((1, 2, 9), bool)
    outliers[0, 1, 5] = True
    options = {"highest": 1.0, "rows": ["r"], "columns": ["before", "after"], "x_label": "", "y_label": ""}
    made = token_maps(values, outliers, outlined=True, **options)
    assert not (picture(made)[..., :3] == OUTLIER).all(axis=-1).any()
    (outline,) = (node for node in svg_of(made).iter("rect") if node.get("class") == "outlined")
    image = next(svg_of(made).iter("image"))
    pixel = int(outline.get("width") or 0)
    x, y = (int(outline.get(axis) or 0) - int(image.get(axis) or 0) for axis in ("x", "y"))
    assert (x // pixel, y // pixel) == (4 + 2, 1)  # behind the first map and its gap, in the third column
    assert 'class="outlined"' in scale_bar("0", "1", outlined=True)
