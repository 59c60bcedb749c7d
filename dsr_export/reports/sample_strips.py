"""The last states of a sampling run as pictures: the reference, the candidate, and how far they are apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.html.rasters import OUTLIER, colours, data_uri
from dsr_export.parity.golden.vectors import Golden

Array = npt.NDArray[Any]
IMAGES = 4
LONGEST_SIDE = 128  # pixels; larger images are shown smaller, so that the report stays light
GAP = 1


def golden_strips(golden: Golden, sample: Array | None, *, runtime: str) -> list[dict[str, Any]]:
    """The report's `samples` of one candidate: none where there is no trajectory, or nothing to draw."""
    if sample is None or golden.trajectory is None:
        return []
    made = sample_strips(golden.trajectory.states[-1], sample, golden.trajectory.labels, runtime=runtime)
    return [] if made is None else [made]


def sample_strips(reference: Array, candidate: Array, labels: Array, *, runtime: str) -> dict[str, Any] | None:
    """The report's entry of one candidate, for states [n, C, H, W]; None for states of another form.

    One or three channels are a picture in [-1, 1]. Of latents the first three channels are shown as red, green and
    blue (of two the first as grey), each between the 1st and 99th percentile of the reference. Each strip is the first
    images side by side, as a PNG data URI. Values that are not finite are drawn in the colour of outliers.
    """
    if reference.ndim != 4 or candidate.shape != reference.shape:
        return None
    truth, made = reference[:IMAGES].astype(np.float64), candidate[:IMAGES].astype(np.float64)
    picture = truth.shape[1] in (1, 3)
    shown = 3 if truth.shape[1] >= 3 else 1
    apart = np.abs(made - truth).max(axis=1)
    largest = float(apart[np.isfinite(apart)].max(initial=0.0))
    low, high = (-1.0, 1.0) if picture else np.nanpercentile(truth[:, :shown], (1, 99), (0, 2, 3), keepdims=True)
    return {
        "runtime": runtime,
        "kind": "picture" if picture else "latent",
        "labels": [int(label) for label in labels[:IMAGES]],
        "reference": _strip(_colour(truth[:, :shown], low, high), np.isfinite(truth)),
        "candidate": _strip(_colour(made[:, :shown], low, high), np.isfinite(made)),
        "difference": _strip(colours(apart / (largest or 1.0)), np.isfinite(apart)[:, None], pool=np.max),
        "difference_max": largest,
        "not_finite": int(np.count_nonzero(~np.isfinite(made))),
    }


def _colour(images: Array, low: Any, high: Any) -> Array:
    """[n, 1 or 3, H, W] -> [n, H, W, 3] in 0 to 255."""
    shares = np.clip((np.nan_to_num(images) - low) / np.maximum(high - low, 1e-12), 0, 1).transpose(0, 2, 3, 1)
    return np.repeat(255 * shares, 3 // shares.shape[3], axis=3)


def _strip(pixels: Array, finite: Array, *, pool: Any = np.mean) -> str:
    """Pixels [n, H, W, 3] and finite values [n, C, H, W] -> one row of images with transparent gaps."""
    broken = np.any(~finite, axis=1)
    pixels = np.nan_to_num(pixels)
    pixels[broken] = OUTLIER
    pixels = _pooled(pixels, pool)
    opaque = np.full((*pixels.shape[:3], 1), 255.0)
    tiles = np.concatenate([pixels, opaque], axis=3).round().astype(np.uint8)
    padded = np.pad(tiles, ((0, 0), (0, 0), (0, GAP), (0, 0)))
    return data_uri(np.concatenate(list(padded), axis=1)[:, :-GAP])


def _pooled(pixels: Array, pool: Any) -> Array:
    """Large images by a whole factor smaller; what is left over at their ends is cut off."""
    n, height, width, channels = pixels.shape
    factor = math.ceil(max(height, width) / LONGEST_SIDE)
    if factor == 1:
        return pixels
    high, wide = height // factor, width // factor
    blocks = pixels[:, : high * factor, : wide * factor].reshape(n, high, factor, wide, factor, channels)
    return np.asarray(pool(blocks, axis=(2, 4)))
