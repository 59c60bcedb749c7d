"""An engine of TensorRT 10 (a stand-in): what it launches, from `compile` through every command that tells of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsr_export.backends import installation
from dsr_export.bundle.reader import Bundle
from dsr_export.recompiling import recompile
from dsr_export.verification.engine_checks import engine_checks
from tests.backends.tensorrt.builder_stand_in import VERSION, TensorRT, stand_in
from tests.conftest import Cli

WHY = "cannot be read: the engine was not inspected: CUDA is out of memory"


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> TensorRT:
    for module in (installation, recompile):
        monkeypatch.setattr(module, "compute_capability", lambda: "8.9")
    monkeypatch.setattr(installation, "installed_version", lambda package: VERSION)
    return stand_in(monkeypatch)


def test_a_compiled_engine_tells_its_schedule_everywhere(
    denoiser_bundle: Path, tensorrt: TensorRT, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "trt.dsr"
    done = cli("compile", denoiser_bundle, "--target", "trt10", "--out", out, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    engine = report["engines"]["trt10"]
    assert engine["schedule_problem"] is None
    told = engine["schedule"]
    launches, moved = len(told["launches"]), told["moved_bytes"]
    assert launches > 10 and told["attention"]["of"] > 0 and told["attention"]["fused"] == 0
    assert {gemm["computes"] for gemm in told["gemms"]} == {"float32"} and "unlisted_weights" not in told

    summary = json.loads(cli("inspect", out, "--json").out)["schedules"]["trt10"]
    assert (summary["launches"], summary["moved_bytes"]) == (launches, moved)
    assert f"{launches} launches" in (out / "report.html").read_text()

    [row] = json.loads(cli("bench", out, "--roofline", "l4", "--json").out)["estimates"]
    assert (row["name"], row["launches"], row["moved_bytes"]) == ("trt.dsr", launches, moved)
    assert row["devices"]["l4"]["graph_ms"] == pytest.approx(told["estimates"]["l4"]["graph_ms"])

    found = engine_checks(Bundle.open(out).report()["engines"], "fp16")
    assert [(each.of, each.passed) for each in found][:1] == [("attentions_fused (trt10)", False)]


def test_two_engines_are_compared(denoiser_bundle: Path, tensorrt: TensorRT, cli: Cli, tmp_path: Path) -> None:
    a, b, tell = tmp_path / "a.dsr", tmp_path / "b.dsr", tensorrt.tell
    assert cli("compile", denoiser_bundle, "--target", "trt10", "--out", a).code == 0
    tensorrt.tell = lambda *of: _with_a_copy(tell(*of))
    assert cli("compile", denoiser_bundle, "--target", "trt10", "--out", b).code == 0
    before, after = (Bundle.open(each).report()["engines"]["trt10"]["schedule"] for each in (a, b))
    assert len(after["launches"]) == len(before["launches"]) + 1
    assert f"launches {len(before['launches'])} -> {len(after['launches'])}" in cli("diff", a, b).out


def _with_a_copy(told: str) -> str:
    """Of the first thing that is read, before anything else."""
    found = json.loads(told)
    [first, *_] = found["Layers"][0]["Inputs"]
    copy = {"Name": "c", "LayerType": "Reformat", "Inputs": [first], "Outputs": [{**first, "Name": "copy"}]}
    return json.dumps({**found, "Layers": [copy, *found["Layers"]]})


def test_an_engine_that_tells_nothing_is_estimated_by_none_and_named(
    denoiser_bundle: Path, tensorrt: TensorRT, cli: Cli, tmp_path: Path
) -> None:
    tensorrt.loads = False
    out = tmp_path / "trt.dsr"
    assert cli("compile", denoiser_bundle, "--target", "trt10", "--out", out).code == 0
    assert WHY in cli("inspect", out).out
    done = cli("bench", out, "--roofline", "l4", "--json")
    assert (done.code, done.out) == (1, "")
    assert f"engines/trt10.plan {WHY}" in done.err
