"""Masks, counts and complex tables that are constants: the graph is static and real, and PyTorch's numbers are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dsr_export.errors import ExportError
from tests.traced_modules import agree, subject_of

DYNAMIC = {"NonZero", "If", "Loop", "SequenceAt", "SplitToSequence", "Compress", "Unique"}


def chosen(s: Any, x: Tensor) -> Tensor:
    return torch.cat([x[:, torch.nonzero(s.keep).squeeze()], 2 * x[:, s.keep]], 1)


def dropped(s: Any, x: Tensor) -> Tensor:
    p = s.positions.clone()
    p[:, ~s.keep] *= 0
    out = torch.zeros_like(x)
    out[:, s.keep] = x[:, s.keep] * 2
    return x + p + out


def counted(s: Any, x: Tensor) -> Tensor:
    n = int(s.keep.sum())
    return x[:, :n].reshape(-1, n * 2, 4) if s.keep.any() else x


def repeated(s: Any, x: Tensor) -> Tensor:
    rows = torch.repeat_interleave(s.positions[0, :3], s.lengths, dim=0)
    return x[:, :3].repeat_interleave(s.lengths, dim=1) + rows


def selected(s: Any, x: Tensor) -> Tensor:
    return x + torch.masked_select(s.positions, s.keep[None, :, None]).view(4, 8).sum(0)


TABLES = {"rows": [torch.tensor([4]), torch.tensor([True, False, True, True, False, True])]}


def held_in_lists(s: Any, x: Tensor) -> Tensor:
    count, mask = TABLES["rows"]
    return torch.cat([x[:, : int(count)], x[:, mask]], 1)


def bounded_by_tensors(s: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, s.lengths[0] : s.lengths[-1] + 2] = 1
    return torch.cat([x[:, s.lengths[0] :], y[:, : s.lengths[2]]], 1)


def factored(s: Any, x: Tensor) -> Tensor:
    weight = s.linear.weight + 8 * torch.eye(8)
    turned = torch.linalg.qr(weight)[0] @ torch.matrix_exp(0.1 * (weight - weight.T))
    scales = torch.linalg.svd(weight)[1] * torch.linalg.det(weight / 8)
    return x @ turned @ weight.inverse() @ torch.linalg.pinv(weight) * scales * 8


def written_through_data(s: Any, x: Tensor) -> Tensor:
    table = s.positions.new_zeros(1, 6, 8)
    table.data[:, 2:].copy_(s.positions[0, 2:])
    counts = torch.zeros(2, 6, 8, dtype=torch.int64)
    counts[:, 1:].copy_(s.lengths[0].float())
    counts[0] = s.lengths[:1]
    return x + table * 2 + counts.sum(0)


CONSTANT = [
    chosen,
    dropped,
    counted,
    repeated,
    selected,
    held_in_lists,
    bounded_by_tensors,
    factored,
    written_through_data,
]


@pytest.mark.parametrize("body", CONSTANT, ids=lambda body: body.__name__)
def test_what_depends_on_constants_is_static(body: Any, tmp_path: Path) -> None:
    ops = agree(subject_of(body), tmp_path / "traced.onnx", sizes=(1, 3))[1]
    assert not ops & DYNAMIC


def test_a_matrix_of_an_input_is_not_taken_apart(tmp_path: Path) -> None:
    def inverted(s: Any, x: Tensor) -> Tensor:
        return x + torch.linalg.inv(x @ x.mT + torch.eye(6)) @ x

    with pytest.raises(ExportError, match="no ONNX translation of aten.linalg_inv"):
        subject_of(inverted).trace(tmp_path / "traced.onnx")


def test_a_constant_that_an_input_was_written_into_is_none(tmp_path: Path) -> None:
    def written(s: Any, x: Tensor) -> Tensor:
        mark = torch.zeros(6, 8)
        row = mark[0]
        mark[1] = x[0, 0].clamp(0, 0) + 1
        row += x[0, 1].clamp(0, 0)
        return x[:, s.keep] + mark[s.keep][:, :8].sum() + mark.sum()

    agree(subject_of(written), tmp_path / "traced.onnx", sizes=(1, 3))


def complex_of(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))


def rotary(s: Any, x: Tensor) -> Tensor:
    heads = complex_of(x.view(x.shape[0], 6, 2, 4))
    return torch.view_as_real(heads * s.table[None, :, None, :2]).flatten(3).type_as(x)


def split_axes(s: Any, x: Tensor) -> Tensor:
    t, h, w = s.table.split([2, 1, 1], dim=1)
    parts = [t[:2].view(2, 1, 1, 2).expand(2, 3, 1, 2), h[:3].view(1, 3, 1, 1).expand(2, 3, 1, 1)]
    parts.append(w[:1].view(1, 1, 1, 1).expand(2, 3, 1, 1))
    return torch.view_as_real(complex_of(x) * torch.cat(parts, -1).reshape(1, 6, 4)).flatten(2)


def written_into(s: Any, x: Tensor) -> Tensor:
    made = torch.zeros_like(s.table)
    made[:, 1:3] = s.table[:, :2]
    made[0] = complex_of(x[0])[0]
    made[3].copy_(s.table[4])
    padded = torch.nn.utils.rnn.pad_sequence([s.table[:3], made[:5]], batch_first=True)
    table = torch.zeros(5, 4, dtype=torch.complex64)
    table[1:3] = s.table[:2]
    table[0] = torch.ones(4, dtype=torch.complex64) + made.new_zeros(4)
    return torch.view_as_real(complex_of(x)[:, :5] * padded.sum(0) + table).flatten(2)


def looked_up(s: Any, x: Tensor) -> Tensor:
    rows = s.table[x[:, :, 0].abs().long().clamp(0, 5)] * torch.exp(1j * torch.arange(4.0))
    a, b = (complex_of(x) * rows / (2 + 1j) + rows - 1).chunk(2, -1)
    swapped = torch.stack([b, a], -1).transpose(-1, -2).flatten(2).roll(1, 1)
    return torch.cat([torch.view_as_real(swapped).flatten(2), swapped.real, swapped.imag, swapped.abs()], -1)


def conjugated(s: Any, x: Tensor) -> Tensor:
    q = complex_of(x)
    turned = q * s.table.conj().resolve_conj() / (q.conj().conj() + 2j)
    return torch.view_as_real(q.conj() * s.table + turned).flatten(2)


def filtered(s: Any, x: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(x, dim=1) * s.table[:4, :1]
    return torch.fft.irfft(spectrum, n=6, dim=1) + torch.fft.fft(x, dim=-1).real


@pytest.mark.parametrize(
    "body", [rotary, split_axes, written_into, looked_up, conjugated, filtered], ids=lambda body: body.__name__
)
def test_complex_tensors_become_real_ones(body: Any, tmp_path: Path) -> None:
    assert not agree(subject_of(body), tmp_path / "traced.onnx", sizes=(1, 3))[1] & DYNAMIC
