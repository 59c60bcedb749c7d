"""INT8 of attention with masks of -inf: what is NaN in PyTorch is NaN, and the rest keeps its accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dsr_export.bundle.reader import Bundle
from tests.conftest import Cli

NAME = "int8_masked_attention"
CODE = "from tests.int8.test_masks import Masked, inputs\n\ndef build():\n    return Masked(), inputs()\n"


class Masked(nn.Module):
    """Two blocks, so that the NaN of a row is read by the GEMMs of the next."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 8)
        self.qkv = nn.ModuleList(nn.Linear(32, 96) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(x)
        for norm, qkv in zip(self.norms, self.qkv, strict=True):
            q, k, v = qkv(norm(x)).chunk(3, -1)
            scores = (q @ k.mT / 32**0.5).masked_fill(~mask, -torch.inf)
            x = x + scores.softmax(-1) @ v
        return self.head(x)  # type: ignore[no-any-return]


def inputs() -> dict[str, Tensor]:
    """Of the second row of the batch, one token has nothing to attend to, and no other attends to it."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(2, 16, 16, generator=generator) > 0.3
    mask[:, :, 0] = True
    mask[1, 5], mask[1, :, 5] = False, False
    return {"x": torch.randn(2, 16, 8, generator=generator), "mask": mask}


def test_a_token_with_nothing_to_attend_to(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{NAME}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    done = cli(
        "build", f"{NAME}:build", "--precision", "int8", "--target", "onnxruntime", "--json", "--batch", "1,2,2",
        "--calibration", "random:0", "--out", "b.dsr",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {gemm["precision"] for gemm in json.loads(done.out)["int8"]["gemms"]} == {"int8"}
    given = inputs()
    with torch.no_grad():
        expected = Masked().eval()(*given.values()).numpy()
    with Bundle.open(Path("b.dsr")).runner("onnxruntime") as runner:
        made = runner.infer({name: value.numpy() for name, value in given.items()})["out"]
    assert 0 < np.isnan(expected).sum() < expected.size
    np.testing.assert_allclose(made, expected, atol=0.05)  # NaN where it is NaN
