"""Pixels there and back."""

from __future__ import annotations

import numpy as np
import pytest

from dsr_export.images.preparation import PREPARATIONS


@pytest.mark.parametrize("family", PREPARATIONS)
def test_undoing_gives_the_pixels_back_by_channel(family: str, rng: np.random.Generator) -> None:
    preparation = PREPARATIONS[family]
    pixels = rng.uniform(0, 1, (2, 4, 5, 3)).astype(np.float32)  # channels last, as image files have them
    taken = ((pixels - preparation.mean) / preparation.std).transpose(0, 3, 1, 2)
    shown = preparation.undone(taken).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(shown, pixels * 2 - 1, atol=1e-6)


def test_dinov2_is_scaled_as_imagenet_and_siglip_evenly() -> None:
    black = np.zeros((1, 3, 1, 1), np.float32)
    np.testing.assert_allclose(PREPARATIONS["siglip"].undone(black).ravel(), [0, 0, 0])
    np.testing.assert_allclose(PREPARATIONS["dinov2"].undone(black).ravel(), [-0.03, -0.088, -0.188], atol=1e-6)
