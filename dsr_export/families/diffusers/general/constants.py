"""Constants that pipelines hand to a transformer: places of tokens, masks of whole prompts, rotations.

Each function takes the sizes and makes the value of one parameter; its name is what a recipe calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dsr_export.families.diffusers.general.sizes import Sizes


def _grid(frames: int, rows: int, columns: int) -> Tensor:
    """[frames * rows * columns, 3]: the place of each token."""
    axes = [torch.arange(count) for count in (frames, rows, columns)]
    return torch.cartesian_prod(*axes).reshape(-1, 3).float()


def _count(count: int, start: int = 0) -> Tensor:
    return torch.arange(start, start + count)


def grid_ids(sizes: Sizes) -> Tensor:
    return _grid(*sizes.grid)


def zero_ids(sizes: Sizes) -> Tensor:
    return torch.zeros(sizes.text, 3)


def diagonal_ids(sizes: Sizes) -> Tensor:
    counted = _count(sizes.text).float()
    return torch.stack([torch.zeros_like(counted), counted, counted], -1)


def longcat_ids(sizes: Sizes) -> Tensor:
    """Modality 1, in rows and columns from 512 on."""
    return _grid(*sizes.grid) + torch.tensor([1.0, 512.0, 512.0])


def four_ids(sizes: Sizes) -> Tensor:
    places = _grid(*sizes.grid)
    return torch.cat([places, torch.zeros(len(places), 1)], -1)


def four_text_ids(sizes: Sizes) -> Tensor:
    return torch.cat([torch.zeros(sizes.text, 3), _count(sizes.text).float()[:, None]], -1)


def krea_places(sizes: Sizes) -> Tensor:
    return torch.cat([zero_ids(sizes), grid_ids(sizes)])


def ideogram_places(sizes: Sizes) -> Tensor:
    """The prompt counts on all three axes; the picture's tokens stand far behind it."""
    text = _count(sizes.text)[:, None].expand(-1, 3)
    return torch.cat([text, grid_ids(sizes).long() + IDEOGRAM_OFFSET])[None]


def ideogram_kinds(sizes: Sizes) -> Tensor:
    return torch.tensor([3] * sizes.text + [2] * sizes.tokens)[None]


def one_segment(sizes: Sizes) -> Tensor:
    return torch.ones(1, sizes.text + sizes.tokens, dtype=torch.long)


def whole_text(sizes: Sizes) -> Tensor:
    return torch.ones(1, sizes.text, dtype=torch.bool)


def whole_glyphs(sizes: Sizes) -> Tensor:
    return torch.ones(1, 128, dtype=torch.bool)


def whole_256(sizes: Sizes) -> Tensor:
    return torch.ones(1, 256, dtype=torch.bool)


def omnigen_mask(sizes: Sizes) -> Tensor:
    """[1, S, S]: prompt and time see what is before them, the picture's tokens see all."""
    before = sizes.text + 1
    mask = torch.ones(before + sizes.cells, before + sizes.cells)
    mask[:before] = torch.tril(mask[:before])
    return mask[None]


def omnigen_places(sizes: Sizes) -> Tensor:
    return _count(sizes.text + 1 + sizes.cells)[None]


IDEOGRAM_OFFSET = 65536

PLACES: Mapping[str, Callable[[Sizes], Any]] = {
    each.__name__: each
    for each in (
        *(grid_ids, zero_ids, diagonal_ids, longcat_ids, four_ids, four_text_ids, krea_places, ideogram_places),
        *(ideogram_kinds, one_segment, whole_text, whole_glyphs, whole_256, omnigen_mask, omnigen_places),
    )
}
