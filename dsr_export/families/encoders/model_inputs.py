"""What a `transformers` vision model is called with at one resolution, however its forward spells it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """Images of `shape` (without batch) that are cut into `grid` (rows, columns) of patches.

    `flat`: the model reads patches that were cut before, [N, 3 * p * p] each, with their grid beside them. `resampled`:
    this is not the resolution of the model's configuration, so that its positions have to be resampled.
    """

    shape: tuple[int, ...]
    grid: tuple[int, int]
    flat: bool = False
    resampled: bool = False

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def noise(self, seed: int) -> Tensor:
        """One image; on the device that tensors are made on, which may hold no values."""
        made = torch.empty(1, *self.shape)
        return made if made.is_meta else made.normal_(generator=torch.Generator().manual_seed(seed))

    def call(self, model: nn.Module, image: Tensor) -> Callable[[], Any]:
        """Calls `model` on `image`, every patch kept and in its place."""
        takes = inspect.signature(model.forward).parameters
        given: dict[str, Any] = {}
        if self.flat:
            given["pixel_attention_mask"] = torch.ones(1, self.patches, dtype=torch.long, device=image.device)
            given["spatial_shapes"] = torch.tensor([self.grid], device=image.device)
        if self.resampled and "interpolate_pos_encoding" in takes:
            given["interpolate_pos_encoding"] = True
        if "noise" in takes:  # a masked autoencoder keeps the patches of least noise, in that order
            given["noise"] = torch.arange(self.patches, dtype=torch.float32, device=image.device)[None]
        return lambda: model(image, **given)
