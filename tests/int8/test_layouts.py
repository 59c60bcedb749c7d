"""INT8 of GEMMs whose rows are laid out otherwise than [batch, tokens, channels]."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import Cli

NAME = "int8_layouts"
CODE = "from tests.int8.test_layouts import Film, inputs\n\ndef build():\n    return Film(), inputs()\n"


class Film(nn.Module):
    """Frames of cells: a GEMM for cells and one for frames, with the other folded into the batch, one with both apart,
    and one with the tokens in front of the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 8)
        self.cells, self.times, self.both, self.first = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        frames, cells = x.shape[1:3]
        x = self.embed(x)
        x = x + self.cells(x.flatten(0, 1)).tanh().unflatten(0, (-1, frames))
        turned = self.times(x.transpose(1, 2).flatten(0, 1)).tanh()
        x = x + turned.unflatten(0, (-1, cells)).transpose(1, 2)
        x = x + self.both(x).tanh()
        ahead = self.first(x.flatten(1, 2).transpose(0, 1)).tanh()
        return self.head(x + ahead.transpose(0, 1).unflatten(1, (frames, cells)))  # type: ignore[no-any-return]


def inputs() -> dict[str, Tensor]:
    return {"x": torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(1))}


def test_every_layout_becomes_int8(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{NAME}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    done = cli(
        "build", f"{NAME}:build", "--precision", "int8", "--target", "onnxruntime", "--json", "--batch", "1,2,2",
        "--calibration", "random:0", "--out", "b.dsr",
    )  # fmt: skip
    assert done.code == 0, done.err
    gemms = json.loads(done.out)["int8"]["gemms"]
    assert {gemm["name"]: gemm["precision"] for gemm in gemms} == dict.fromkeys(
        ("cells", "times", "both", "first"), "int8"
    )
    assert {round(gemm["flops_share"], 3) for gemm in gemms} == {round(2 / 9, 3)}  # of 18 tokens each
