"""Code that counts its batch in Python: traced of one row, and right for any number of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dsr_export.errors import ExportError
from tests.traced_modules import agree, subject_of


def unbound(s: Any, x: Tensor) -> Tensor:
    return torch.stack([s.linear(row) for row in x.unbind(0)])


def zipped(s: Any, x: Tensor) -> Tensor:
    return torch.stack([a * b for a, b in zip(x, 2 * x, strict=True)])


def counted(s: Any, x: Tensor) -> Tensor:
    return x + torch.cat([s.positions for _ in range(x.shape[0])])


def listed(s: Any, x: Tensor) -> Tensor:
    return x * torch.tensor([2.0] * x.shape[0])[:, None, None] + s.token.expand([3] * 0 + [len(x), 6, 8])


def attended(s: Any, x: Tensor) -> Tensor:
    b = len([0] * x.shape[0])
    q, k, v = s.linear(x).view(b, 6, 2, 4).transpose(1, 2).repeat(1, 1, 1, 3).chunk(3, -1)
    mask = s.keep[None, None, None].expand(b, 1, 6, 6)
    made = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    marked = torch.zeros(b, 6, 8)
    for i in range(b):
        marked[i, : s.lengths[-1]] = 1
    return torch.cat([made * marked, s.token.expand(b, 4, -1)], 1)


def by_heads(s: Any, x: Tensor) -> Tensor:
    b = len([0] * x.shape[0])
    heads = x.view(b, 6, 2, 4).permute(0, 2, 1, 3).reshape(b * 2, 6, 4)
    scores = torch.baddbmm(torch.zeros(b * 2, 6, 6), heads, heads.mT).softmax(-1)
    return torch.bmm(scores, heads).view(b, 2, 6, 4).transpose(1, 2).reshape(b, 6, 8) + x.mean(1, keepdim=True)


def packed(s: Any, x: Tensor) -> Tensor:
    rows = [F.pad(row.permute(1, 0).reshape(4, 12), (0, 0, 0, 2)) for row in x]
    chosen = torch.cat([row[s.lengths] for row in rows]).view(len(rows), 3, 12)
    padded = torch.nn.utils.rnn.pad_sequence([row[:3] for row in rows], batch_first=True)
    squares = torch.stack([torch.einsum("ij,kj->ik", row, row) for row in rows])
    return torch.cat([torch.stack(rows), chosen, padded, F.pad(squares, (0, 6))], 1).softmax(-1)


def looked_up(s: Any, x: Tensor) -> Tensor:
    places = [row[:, 0].abs().long().clamp(0, 5) for row in x]
    rows = [s.positions[0][place] + F.embedding(place, s.positions[0]) for place in places]
    return torch.stack(rows) * torch.stack([F.layer_norm(row, row.shape) for row in x])


def pictured(s: Any, x: Tensor) -> Tensor:
    kernel = s.linear.weight.view(4, 1, 4, 4)[..., :3, :3]
    made = [F.conv2d(row.view(1, 6, 8), kernel, padding=1) for row in x]
    grown = [F.interpolate(each[None], scale_factor=2, mode="nearest")[0] for each in made]
    return torch.stack([F.group_norm(each[None], 2)[0] + each.sum((1, 2), keepdim=True) for each in grown])


def written(s: Any, x: Tensor) -> Tensor:
    rows = []
    for row in x:
        made = row.new_zeros(9, 8)
        made[s.lengths] = row[:3]
        made[s.lengths[:, None] + 3, s.lengths[None]] = row[0, 0]
        made[:, s.lengths] += row[1, 1]
        copied = made[None].index_copy(1, s.lengths + 1, row[None, 3:])
        rows.append(copied.index_add(2, s.lengths, row.new_ones(1, 9, 3))[0])
    return torch.stack(rows)


FEW = (attended, written)
MORE = (packed, unbound, zipped, counted, listed, by_heads, looked_up, pictured)
FORMS = [*FEW, *(pytest.param(each, marks=pytest.mark.slow) for each in MORE)]


@pytest.mark.parametrize("body", FORMS, ids=lambda body: body.__name__)
def test_rows_that_are_counted_in_python_are_any_number(body: Any, tmp_path: Path) -> None:
    traced, _ = agree(subject_of(body), tmp_path / "traced.onnx", sizes=(1, 2, 5))
    assert traced.batch_limits == (1, None)


def test_nodes_and_weights_keep_the_names_that_the_module_gives_them(tmp_path: Path) -> None:
    subject_of(unbound).trace(tmp_path / "traced.onnx")
    graph = onnx.load(tmp_path / "traced.onnx").graph
    assert [node.name for node in graph.node if node.op_type in ("Gemm", "MatMul")] == ["linear/MatMul"]
    assert "linear.bias" in {each.name for each in graph.initializer}


def test_rows_that_are_mixed_in_python_are_refused(tmp_path: Path) -> None:
    def mixed(s: Any, x: Tensor) -> Tensor:
        b = len([0] * x.shape[0])
        return x + x.view(b, -1).mean(0, keepdim=True).view(1, 6, 8)

    with pytest.raises(ExportError, match="the batch became a constant at .*test_widened.py"):
        subject_of(mixed).trace(tmp_path / "traced.onnx")
