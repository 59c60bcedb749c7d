"""Codes of GEMMs whose rows are laid out otherwise than [batch, tokens, channels]."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphs.precisions import report_key
from tests.conftest import Cli

NAME = "int8_layouts"
CODE = "from tests.int8.test_layouts import Film, inputs\n\ndef build():\n    return Film(), inputs()\n"


class Film(nn.Module):
    """Frames of cells: a GEMM for cells and one for frames, with the other folded into the batch, one with both apart,
    and one with the tokens in front of the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Linear(8, 64), nn.Linear(64, 8)
        self.cells, self.times, self.both, self.first = (nn.Linear(64, 64) for _ in range(4))

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


@pytest.mark.parametrize("precision", ["int8", "fp8", "int4"])
def test_every_layout_becomes_codes(precision: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gemms = _built(precision, "onnxruntime", cli, tmp_path, monkeypatch)
    assert {round(gemm["flops_share"], 3) for gemm in gemms} == {round(4 / 17, 3)}  # of 18 tokens each


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int4", "nvfp4-weights", "nvfp4"])
def test_every_layout_builds_an_engine(
    precision: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes FP4 codes takes two axes or three, and one GEMM has four."""
    pytest.importorskip("tensorrt_rtx")
    _built(precision, "rtx:sm120", cli, tmp_path, monkeypatch)


def _built(
    precision: str, target: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """All four inner GEMMs have the format."""
    (tmp_path / f"{NAME}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    done = cli(
        "build", f"{NAME}:build", "--precision", precision, "--target", target, "--json", "--batch", "1,2,2",
        "--calibration", "random:0", "--out", "b.dsr",
    )  # fmt: skip
    assert done.code == 0, done.err
    gemms: list[dict[str, Any]] = json.loads(done.out)[report_key(precision)]["gemms"]
    assert {gemm["name"]: gemm["precision"] for gemm in gemms} == dict.fromkeys(
        ("cells", "times", "both", "first"), precision
    )
    return gemms


CUT = """import torch
from torch import nn

class Cut(nn.Module):
    def __init__(self, width):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.inner, self.head = nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 8)

    def forward(self, x):
        return self.head(self.inner(self.embed(x)).tanh())

def build():
    return Cut({width}), {{"x": torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(1))}}
"""


@pytest.mark.parametrize(
    ("precision", "width", "blocks", "instead"),
    [("int4", 40, "whole blocks of 64", "int8"), ("fp8", 12, None, "fp16")],
)
def test_a_model_that_no_block_divides_is_refused(
    precision: str,
    width: int,
    blocks: str | None,
    instead: str,
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be another precision than the one that was asked for. FP4 has no target that builds everywhere."""
    (tmp_path / f"cut_{width}.py").write_text(CUT.format(width=width))
    monkeypatch.chdir(tmp_path)
    done = cli(
        "build", f"cut_{width}:build", "--precision", precision, "--target", "onnxruntime", "--batch", "1,2,2",
        "--calibration", "random:0", "--out", "b.dsr",
    )  # fmt: skip
    assert done.code != 0 and not (tmp_path / "b.dsr").exists()
    assert f"has no GEMM that can become {precision.upper()}: none of 16 or more rows and channels" in done.err
    assert blocks is None or blocks in done.err
    assert f"build with --precision {instead}" in done.err
