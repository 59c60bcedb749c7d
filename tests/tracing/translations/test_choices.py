"""Choices between booleans, as masks are made, are those of PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.traced_modules import agree, subject_of


def _masks(s: Any, x: Tensor) -> dict[str, Tensor]:
    keep, kept = s.keep[:, None], x > -1
    kept[x > 1] = False
    return {
        "chosen": torch.where(keep, x > 0, x[:, :1] < 0.5),
        "filled with False": (x > 0).masked_fill(keep, False),
        "filled with 1": (x > 0).masked_fill(x < -1, 1),
        "filled with a tensor": (x > 0).masked_fill(keep, x.sum() > 0),
        "filled with an integer": (x > 0).masked_fill(keep, s.lengths[1]),
        "written": kept,
    }


def test_a_choice_between_booleans_is_pytorchs(tmp_path: Path) -> None:
    _, ops = agree(subject_of(_masks), tmp_path / "traced.onnx")
    assert "Where" not in ops  # of booleans, which ONNX Runtime does not load


def _numbers(s: Any, x: Tensor) -> dict[str, Tensor]:
    wide = x.double().masked_fill(x > 0, 1 / 3) - 1 / 3
    return {
        "single": x.masked_fill(x > 0, torch.finfo(torch.float32).min).masked_fill(x < -1, s.token.sum()),
        "double": (wide * 1e9).float(),
        "large": (x * 3).long().masked_fill(x > 0, 2**40 + 1),
        "joined": torch.where(x > 0, x, 2),
    }


def test_a_choice_between_numbers_keeps_their_digits(tmp_path: Path) -> None:
    agree(subject_of(_numbers), tmp_path / "traced.onnx")
