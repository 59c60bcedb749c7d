"""What simplification leaves as it is: slices of an axis, even or odd."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.traced_modules import agree, subject_of


@pytest.mark.parametrize(("width", "at"), [(8, 4), (7, 3), (7, 4), (8, 3)])
def test_slices_of_an_axis_are_those_of_the_module(width: int, at: int, tmp_path: Path) -> None:
    def rotated(s: object, x: Tensor) -> Tensor:
        whole = torch.tanh(x)[..., :width] * 3
        return torch.cat([whole[..., at:], whole[..., :at], whole[..., -at:], whole[..., : at + 1]], -1)

    agree(subject_of(rotated), tmp_path / "traced.onnx", sizes=(2,))
