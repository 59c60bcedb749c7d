"""Stand-ins of an evaluation: pictures and networks that cost nothing."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.evaluation.features.extractor import Extracted
from dsr_export.evaluation.parts import Part

Array = npt.NDArray[Any]


class Blocks:
    """An extractor: means of picture blocks [n, 8], and as logits the first four."""

    name, width = "blocks", 8
    digest = hashlib.sha256(b"blocks").hexdigest()

    def __call__(self, pictures: Array) -> Extracted:
        columns = pictures.mean(axis=(1, 3), dtype=np.float64)  # [n, W]
        features = columns.reshape(len(columns), 8, -1).mean(axis=2) / 16
        return Extracted(features, features[:, :4])


def drawn(part: Part, *, noise: int = 0, seed: int = 0) -> Array:
    """Pictures [n, 16, 16, 1] of a part: image i depends on its index alone."""
    rows = []
    for i in range(part.first, part.first + part.count):
        rng = np.random.default_rng([seed, i])
        base = rng.integers(0, 200, (16, 16, 1))
        rows.append(base + (rng.integers(0, noise + 1, base.shape) if noise else 0))
    return np.stack(rows).astype(np.uint8)
