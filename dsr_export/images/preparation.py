"""How image processors scale pixels for an encoder, by family, and the way back for a decoder's pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Preparation:
    """How a family's image processor makes its input: pixels in [0, 1], minus `mean`, over `std`.

    `crop` is the share of the shorter side kept in the middle; None squeezes the whole picture into the square.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float | None

    def undone(self, images: Array) -> Array:
        """Images [n, 3, H, W] as the encoder takes them -> the same in [-1, 1]."""
        mean, std = (np.array(each, np.float32).reshape(3, 1, 1) for each in (self.mean, self.std))
        return np.asarray(2 * (images * std + mean) - 1)


_SIGLIP = Preparation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), None)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_DINOV2 = Preparation(*_IMAGENET, 224 / 256)
_CLIP = Preparation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), 1.0)
PREPARATIONS: Mapping[str, Preparation] = {
    "siglip": _SIGLIP,
    "clip": _CLIP,
    "dinov2": _DINOV2,
    "dinov2-with-registers": _DINOV2,
    "dinov3": Preparation(*_IMAGENET, None),
    "autoencoder-rae": Preparation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0),  # which scales pixels itself
    "mae": Preparation(*_IMAGENET, None),
}
