"""The objective of an encoder's registers: its own patch features, averaged over shifted views of a picture.

What belongs to a place of the grid, as artefacts of outlier tokens do, is averaged away; what belongs to the picture
stays (after arXiv 2505.21501, which distils a whole encoder so; here nothing is trained but registers).
Shapes: B pictures, N patches on a grid of rows x columns, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dsr_export.families.encoders.vision_encoder import VisionEncoder
from dsr_export.fitting.data import Pictures
from dsr_export.fitting.losses import Draw, beside, power
from dsr_export.subject import Subject

VIEWS = 5  # the picture as it is, and four that are moved


@dataclass(frozen=True)
class ViewDistillation:
    """The mean square distance to the averaged features of `teacher`, as a share of their own mean square."""

    teacher: Subject
    data: Pictures

    def __call__(self, module: nn.Module, draw: Draw) -> Tensor:
        index = torch.randint(len(self.data.values), (draw.rows,), generator=draw.generator)[draw.part].numpy()
        (pictures,) = beside(module, torch.from_numpy(np.ascontiguousarray(self.data.values[index])))
        with torch.no_grad():
            wanted = denoised(self.teacher.module, pictures, draw.generator)
        distance = (_tokens(module(pictures)) - wanted).square().mean()
        share: Tensor = distance / power(wanted, draw)
        return share


def denoised(encoder: Any, pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Features [B, N, C] of `pictures`, the mean over `VIEWS` shifts by whole patches, each moved back."""
    total: Tensor | None = None
    for view in range(VIEWS):
        moved = [int(torch.randint(side, (), generator=generator)) if view else 0 for side in encoder.grid]
        features = _on_grid(_tokens(encoder(shifted(encoder, pictures, moved))), encoder.grid)
        back = features.roll([-step for step in moved], dims=(1, 2)).flatten(1, 2)
        total = back if total is None else total + back
    assert total is not None
    return total / VIEWS


def shifted(encoder: VisionEncoder, pictures: Tensor, moved: list[int]) -> Tensor:
    """Moved by `moved` patches down and to the right; what leaves at one side enters at the other."""
    if encoder.patch is None:  # flat patches [B, N, 3 p p]
        return _on_grid(pictures, encoder.grid).roll(moved, dims=(1, 2)).flatten(1, 2)
    return pictures.roll([step * side for step, side in zip(moved, encoder.patch, strict=True)], dims=(2, 3))


def _on_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    return tokens.reshape(len(tokens), *grid, tokens.shape[-1])


def _tokens(made: Tensor) -> Tensor:
    """Of a latent [B, C, rows, columns] as well."""
    return made.flatten(2).transpose(1, 2) if made.ndim == 4 else made
