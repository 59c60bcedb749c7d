"""Operands of several types in one list are promoted as PyTorch promotes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dsr_export.tracing.decompositions.mixed_types import in_one_type
from tests.traced_modules import agree, subject_of


def turned(s: Any, x: Tensor) -> Tensor:
    wide = torch.arange(8.0, dtype=torch.float64)
    table = torch.einsum("...n,d->...nd", x[..., 0], wide) + torch.einsum("i,j->ij", torch.arange(6), wide.float())
    three = torch.einsum("bn,d,n->bnd", x[..., 0], wide, torch.arange(6))
    return (table + three).float()


def stacked(s: Any, x: Tensor) -> Tensor:
    pairs = torch.stack([x, x.double() * 2, s.keep[:, None].expand(len(x), 6, 8)], 1).sum(1)
    return torch.hstack([pairs.float(), torch.hstack([x, x.double()])[:, :3].float()])


def joined(s: Any, x: Tensor) -> Tensor:
    return torch.concat([(x * 3).long(), x], 1) + torch.concatenate([x, x > 0], 1)


def subtracted(s: Any, x: Tensor) -> Tensor:
    whole = (x * 3).long()
    return (1.5 - whole) * (1.0 - torch.arange(8)) + torch.rsub(whole, 0.5, alpha=2) + (3 - whole) + (2.5 - x)


@pytest.mark.parametrize("body", [turned, stacked, joined, subtracted], ids=lambda body: body.__name__)
def test_the_widest_type_is_taken(body: Any, tmp_path: Path) -> None:
    agree(subject_of(body), tmp_path / "traced.onnx", sizes=(1, 2))


def test_a_program_of_one_type_stays_as_it_is() -> None:
    class Stacked(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x, 2 * x], 1).sum(1)

    program = torch.export.export(Stacked(), (torch.zeros(2, 6),))
    assert in_one_type(program) is program
