"""Dynamic thresholding of predicted clean data (Imagen, 2205.11487), as diffusers' schedulers do it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dsr_export.samplers.sampler import Array
from dsr_export.samplers.settings import refuse


@dataclass(frozen=True, kw_only=True)
class ThresholdSettings:
    """With diffusers' names and defaults."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0

    def __post_init__(self) -> None:
        refuse(
            [
                (not 0 <= self.dynamic_thresholding_ratio <= 1, "dynamic_thresholding_ratio is not from 0 to 1"),
                (not self.sample_max_value > 0, "sample_max_value is not above 0"),
            ]
        )

    def limited(self, clean: Array) -> Array:
        """`clean [n, ...]`, each row cut at a quantile of its magnitudes (1 at least) and divided by it."""
        rows = clean.reshape(len(clean), -1)
        limits = quantiles(np.abs(rows), self.dynamic_thresholding_ratio)
        limits = np.minimum(np.maximum(limits, 1), limits.dtype.type(self.sample_max_value))[:, None]
        return np.asarray(np.clip(rows, -limits, limits) / limits).reshape(clean.shape)


def quantiles(rows: Array, share: float) -> Array:
    """The quantile of each of `rows [n, m]`, between the two nearest values, [n]: `torch.quantile`."""
    ordered, number = np.sort(rows, axis=1), rows.dtype.type
    place = number(share) * number(rows.shape[1] - 1)
    below, above = ordered[:, int(np.floor(place))], ordered[:, int(np.ceil(place))]
    weight = number(place - np.floor(place))
    return np.asarray(below + weight * (above - below))
