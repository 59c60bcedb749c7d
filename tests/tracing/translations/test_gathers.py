"""An index along one axis is one Gather: of any rank, of either end, and of a mask that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.traced_modules import agree, subject_of


def every_index(s: Any, x: Tensor) -> dict[str, Tensor]:
    """[B, 6, 8] by indices of one and two axes, from both ends, of each axis but the batch."""
    grid = torch.tensor([[0, -1, 2], [5, 3, -6]])
    mask = torch.tensor([True, False, True, True, False, False])
    return {
        "rows": x[:, torch.tensor([4, 0, 4])],
        "from_the_end": x[:, torch.tensor([-1, -6])],
        "channels": x[..., torch.tensor([7, 1, -2])],
        "grid": x[:, grid],
        "grid_of_channels": x[:, :, grid],
        "int32": x[:, torch.tensor([1, 5], dtype=torch.int32)],
        "where": x[:, torch.nonzero(mask)[:, 0]],
        "mask": x[:, mask],
    }


def two_axes(s: Any, x: Tensor) -> Tensor:
    """Points [B, 3] of rows and channels together, which no Gather takes."""
    return x[:, torch.tensor([0, 5, 2]), torch.tensor([7, -1, 0])]


def test_an_index_along_one_axis_is_one_gather(tmp_path: Path) -> None:
    ops = agree(subject_of(every_index), tmp_path / "traced.onnx", sizes=(1, 3))[1]
    assert "Gather" in ops and not {"GatherND", "Transpose"} & set(ops)


def test_an_index_along_two_axes_is_right_as_well(tmp_path: Path) -> None:
    agree(subject_of(two_axes), tmp_path / "traced.onnx", sizes=(1, 3))
