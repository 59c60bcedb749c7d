"""What half arithmetic loses fails a build and its `verify`, though ONNX Runtime's own half kernels do not lose it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.conftest import Cli

MODULE = """
import torch
from torch import nn

class Gate(nn.Module):
    def forward(self, x):
        return {gate}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.gate, self.last = nn.Linear(8, 8), Gate(), nn.Linear(8, 8)

    def forward(self, x):
        return self.last(self.gate(self.first(x)))

def make():
    torch.manual_seed(1)
    return Net().eval(), {{"x": torch.randn(2, 8)}}
"""
_numbers = itertools.count()


def _written(folder: Path, gate: str) -> str:
    name = f"half_model_{next(_numbers)}"
    (folder / f"{name}.py").write_text(MODULE.format(gate=gate))
    return f"{name}:make"


@pytest.mark.parametrize(
    "gate", ["(torch.sigmoid(x) + 4096) - 4096", "1 / ((torch.sigmoid(x) + 4096) - 4096)"], ids=["lost", "divided"]
)
def test_a_sum_that_half_loses_fails_with_the_module_that_loses_it(
    gate: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = _written(tmp_path, gate)
    done = cli("build", model, "--precision", "fp16", "--target", "onnxruntime", "--out", "m.dsr", "--json")
    report = json.loads(done.out)
    assert done.code == 3, done.err
    verdicts = {row["check"]: row["passed"] for row in report["parity"]}
    assert verdicts["fused"] and not verdicts["batch-1"]  # the first is what was believed
    assert "gate" in report["bisection"]["module"]
    again = cli("verify", "m.dsr", "--json")
    assert again.code == 3
    checked = json.loads(again.out)
    assert checked["bisection"]["module"] == report["bisection"]["module"]
    figures = [[(row["check"], row["snr_db"]) for row in each["parity"]] for each in (report, checked)]
    assert figures[0] == figures[1]  # the same witness


def test_the_same_model_in_fp32_passes(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = _written(tmp_path, "(torch.sigmoid(x) + 4) - 4")
    assert cli("build", model, "--precision", "fp16", "--target", "onnxruntime", "--out", "m.dsr").code == 0
