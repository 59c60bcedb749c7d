"""Token maps as one inline PNG, one pixel per token, enlarged by the browser; axis labels around it in SVG."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.html.axes import every
from dsr_export.html.markup import Markup, element, text

Array = npt.NDArray[Any]
OUTLIER = (235, 64, 32)
_STOPS = np.array([(24, 32, 72), (44, 92, 136), (70, 150, 150), (140, 198, 150), (232, 232, 170)], float)
"""Dark to light, of even steps in lightness; none of them comes near the colour of outliers."""
TOP, BOTTOM = 6, 40


def data_uri(pixels: Array) -> str:
    """Pixels [H, W, 3 or 4] uint8 as a PNG data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def token_maps(
    values: Array,
    outliers: Array,
    *,
    highest: float,
    rows: Sequence[str],
    columns: Sequence[str],
    x_label: str,
    y_label: str,
    outlined: bool = False,
) -> Markup:
    """Maps of values [rows, columns, tokens] on a square grid, from 0 to `highest`; outliers in their own colour.

    `outlined` draws larger maps in which an outlier keeps the colour of its value and gets an outline in its own.
    Tokens that fill no square stand in one line.
    """
    high, wide = grid_of(values.shape[2])
    pixel = max(2, min(12, 96 // high)) if outlined else max(2, min(8, 40 // high))
    tall, broad = (high + 1) * pixel, (wide + 1) * pixel  # one token's width between maps
    sheet = _sheet(values, np.zeros_like(outliers) if outlined else outliers, highest)
    left = 26 + 7 * max(len(name) for name in rows)
    width, height = left + broad * len(columns), TOP + tall * len(rows) + BOTTOM
    scaled = {"width": broad * len(columns) - pixel, "height": tall * len(rows) - pixel}
    picture = element("image", href=data_uri(sheet), x=left, y=TOP, **scaled)
    step_y, step_x = every(len(rows), tall * len(rows) // 16), every(len(columns), broad * len(columns) // 20)
    parts = [picture]
    if outlined:
        for i, j, token in _places(outliers):
            parts.append(_outline(token, wide, pixel, left + j * broad, TOP + i * tall))
    for i in range(0, len(rows), step_y):
        y = TOP + i * tall + (tall - pixel) / 2 + 4
        parts.append(element("text", text(rows[i]), x=left - 6, y=y, text_anchor="end"))
    for j in range(0, len(columns), step_x):
        x = left + j * broad + (broad - pixel) / 2
        parts.append(element("text", text(columns[j]), x=x, y=TOP + tall * len(rows) + 12, text_anchor="middle"))
    middle = left + broad * len(columns) / 2
    parts.append(element("text", text(x_label), x=middle, y=height - 6, text_anchor="middle"))
    turned = f"translate(12 {TOP + tall * len(rows) / 2:.1f}) rotate(-90)"
    parts.append(element("text", text(y_label), text_anchor="middle", transform=turned))
    name = f"token maps: {y_label} by {x_label}"
    return element(
        "svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img", aria_label=name
    )


def _places(outliers: Array) -> list[tuple[int, int, int]]:
    """Row, column and token of each outlier."""
    return [(int(i), int(j), int(token)) for i, j, token in np.argwhere(outliers)]


def _outline(token: int, wide: int, pixel: int, x: int, y: int) -> Markup:
    """Around one token of the map whose corner is at `x`, `y`."""
    corner = {"x": x + token % wide * pixel, "y": y + token // wide * pixel}
    return element("rect", **corner, width=pixel, height=pixel, class_="outlined")


def scale_bar(low: str, high: str, *, outlier: str | None = "outlier", outlined: bool = False) -> Markup:
    """The legend of `token_maps`; None where none is marked."""
    ramp = colours(np.linspace(0, 1, 64))[None].astype(np.uint8)
    picture = element("image", href=data_uri(ramp), width=96, height=12, preserveAspectRatio="none")
    filled = {"class_": "outlined"} if outlined else {"fill": f"rgb{OUTLIER}"}
    spot = element("rect", width=12, height=12, **filled)
    parts = [
        element("span", text(low)),
        element("span", element("svg", picture, width=96, height=12, aria_hidden="true"), text(high)),
    ]
    if outlier is not None:
        parts.append(element("span", element("svg", spot, width=12, height=12, aria_hidden="true"), text(outlier)))
    return element("div", *parts, class_="legend")


def grid_of(tokens: int) -> tuple[int, int]:
    """Height and width of the square that `tokens` fill, or one line."""
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else (1, tokens)


def _sheet(values: Array, outliers: Array, highest: float) -> Array:
    """[rows * high + gaps, columns * wide + gaps, 4] uint8, one pixel each token; the gaps are transparent."""
    high, wide = grid_of(values.shape[2])
    shares = np.clip(np.nan_to_num(values, posinf=highest) / max(highest, 1e-12), 0, 1)
    marked = np.where(outliers[..., None], np.array(OUTLIER), colours(shares))
    tiles = np.concatenate([marked, np.full((*shares.shape, 1), 255)], axis=-1).astype(np.uint8)
    tiles = tiles.reshape(*values.shape[:2], high, wide, 4)
    return _laid_out(tiles)


def _laid_out(tiles: Array) -> Array:
    """Tiles [R, C, h, w, 4] side by side, one transparent pixel between them."""
    padded = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)))
    r, c, h, w, _ = padded.shape
    return padded.transpose(0, 2, 1, 3, 4).reshape(r * h, c * w, 4)[:-1, :-1]


def colours(shares: Array) -> Array:
    """Shares in [0, 1] -> [..., 3]."""
    places = np.linspace(0, 1, len(_STOPS))
    return np.stack([np.interp(shares, places, _STOPS[:, channel]) for channel in range(3)], axis=-1)
