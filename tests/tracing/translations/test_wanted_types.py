"""Reductions that are told the type of their result compute in it, and do not convert what they made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.traced_modules import Body, agree, subject_of

BODIES: dict[str, Body] = {
    "mean of integers": lambda s, x: x * s.lengths[:2].mean(0, dtype=torch.float32),
    "mean of booleans": lambda s, x: x * (x > 0).mean(-1, keepdim=True, dtype=torch.float32),
    "mean of no axis": lambda s, x: x * s.lengths[0].mean(0, dtype=torch.float32),
    "mean over all axes": lambda s, x: x * x.mean(dim=None, keepdim=True),
    "sum of booleans": lambda s, x: x * (x > 0).sum((1, 2), keepdim=True, dtype=torch.float32),
    "softmax of integers": lambda s, x: x * s.lengths.softmax(0, dtype=torch.float32)[0],
    "log_softmax of booleans": lambda s, x: x * (x > 0).log_softmax(-1, dtype=torch.float32),
    "nothing else": lambda s, x: x.softmax(1) * x.log_softmax(-1) * x.mean(-1, keepdim=True) + x.sum(1, keepdim=True),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_type_is_that_of_the_computation(name: str, tmp_path: Path) -> None:
    agree(subject_of(BODIES[name]), tmp_path / "traced.onnx")
