"""`dsr-export compile`: a new engine in a new bundle, everything else as it was. Engines are really built."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from dsr_export.backends.opening import bundle_runner
from dsr_export.backends.tensorrt import runner as tensorrt_runner
from dsr_export.backends.tensorrt.plan_header import plan_problem
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.sbom import SBOM
from dsr_export.recompiling import recompile as module
from graphs.artifacts import TensorSpec
from tests.bundle.test_sbom import checked
from tests.conftest import Cli
from tests.pipeline_parts import rewritten

ABSENT_ON_DEVICES = ("torch", "torchmetrics", "onnxscript", "safetensors", "yaml")
"""What the device guide leaves out of its list of packages."""
ON_A_DEVICE = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT_ON_DEVICES!r}))
from dsr_export.cli import main
main(sys.argv[1:])
"""
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None or importlib.util.find_spec("polygraphy") is None,
    reason="needs the rtx extra",
)
WITHOUT_TENSORRT = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="the package tensorrt is installed"
)


def _kept(bundle: Bundle) -> dict[str, Any]:
    """Checksums of what no compilation may touch."""
    return {name: entry for name, entry in bundle.manifest.files.items() if name.startswith(("model.", "golden."))}


@needs_rtx
def test_an_engine_is_added_without_torch_and_everything_else_stays(denoiser_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ON_A_DEVICE, "compile", str(denoiser_bundle), "--target", "rtx:sm89", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the engine for 'rtx:sm89' was built and not run: no GPU here runs it" in done.stderr
    made, old = Bundle.open(tmp_path / "denoiser-rtx-sm89.dsr"), Bundle.open(denoiser_bundle)

    assert _kept(made) == _kept(old)
    plan = made.engine("rtx:sm89")
    assert plan == made.path / "engines" / "rtx-sm89.plan"
    assert [each.name for each in made.manifest.targets] == ["onnxruntime", "rtx:sm89"]
    engine = made.manifest.targets[1]
    assert engine.compute_capabilities == ("8.9",)
    assert engine.facts["plan_bytes"] == plan.stat().st_size
    assert plan_problem(plan, engine.backend, engine.version) is None
    listed = {part["name"] for part in checked((made.path / SBOM).read_bytes())["components"]}
    assert {*made.manifest.files, "tensorrt_rtx"} - {SBOM} <= listed
    assert made.manifest.build_key != old.manifest.build_key
    assert made.manifest.provenance["compiled"]["rtx:sm89"]["from"] == old.manifest.digest

    report = json.loads(done.stdout)
    assert report == {**made.report(), "bundle": "denoiser-rtx-sm89.dsr"}
    assert report["targets"] == ["onnxruntime", "rtx:sm89"]
    assert report["compiled"]["rtx:sm89"]["verified"] is False
    assert report["parity"] == old.report()["parity"]
    assert report["passed"] is True


@needs_rtx
def test_the_same_again_is_up_to_date_and_in_place_needs_force(
    denoiser_bundle: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(denoiser_bundle, "here.dsr")
    done = cli("compile", "here.dsr", "--target", "rtx")
    assert done.code == 0, done.err
    assert "engine rtx: " in done.out and "not run: no GPU here runs it" in done.out
    assert "here-rtx.dsr is up to date" in cli("compile", "here.dsr", "--target", "rtx").err

    refused = cli("compile", "here.dsr", "--target", "rtx", "--out", "here.dsr")
    assert refused.code == 1
    assert "--force to replace it" in refused.err
    assert cli("compile", "here.dsr", "--target", "rtx", "--out", "here.dsr", "--force").code == 0
    assert cli("compile", "here.dsr", "--target", "rtx", "--out", "here.dsr", "--force").code == 0
    replaced = Bundle.open("here.dsr")
    assert [each.name for each in replaced.manifest.targets] == ["onnxruntime", "rtx"]  # replaced, not there twice
    assert replaced.engine("rtx").read_bytes() == Bundle.open("here-rtx.dsr").engine("rtx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here-rtx.dsr", "here.dsr"]


@needs_rtx
def test_a_component_gets_its_own_engine(pipeline_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out.dsr"
    done = cli("compile", pipeline_bundle, "--target", "rtx", "--component", "decoder", "--out", out, "--json")
    assert done.code == 0, done.err
    made, old = Bundle.open(out), Bundle.open(pipeline_bundle)
    decoder = made.component("decoder")
    assert decoder.engine("rtx") == out / "components" / "decoder" / "engines" / "rtx.plan"
    assert [each.name for each in made.manifest.targets] == ["onnxruntime"]
    assert _kept(made) == _kept(old) and _kept(decoder) == _kept(old.component("decoder"))
    report = json.loads(done.out)
    assert list(report["compiled"]) == ["decoder/rtx"]
    assert [check.get("component") for check in report["checks"]] == [None, "decoder"]
    assert cli("verify", out).code == 0


@needs_rtx
def test_components_are_kept_when_the_outer_model_is_compiled(pipeline_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli("compile", pipeline_bundle, "--target", "rtx", "--out", tmp_path / "out.dsr").code == 0
    made = Bundle.open(tmp_path / "out.dsr")
    assert made.component("decoder").manifest == Bundle.open(pipeline_bundle).component("decoder").manifest


# -- where a GPU is (a stand-in) ------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, denoiser_bundle: Path) -> SimpleNamespace:
    """The GPU runs the graph in ONNX Runtime and multiplies the result by `gain`; `opened` counts the plans."""
    gpu = SimpleNamespace(gain=1.0, opened=0)

    class Runner:
        name = "tensorrt_rtx"

        def __init__(self, plan: bytes, *, backend: str, inputs: tuple[TensorSpec, ...], needs: Any) -> None:
            assert needs.target == "rtx" and needs.backend == backend == self.name
            gpu.opened += 1
            self.inner = bundle_runner(Bundle.open(denoiser_bundle), "onnxruntime")

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            self.inner.__exit__(None, None, None)

        def infer(self, fed: dict[str, Any]) -> dict[str, Any]:
            return {name: value * np.float32(gpu.gain) for name, value in self.inner.infer(fed).items()}

    monkeypatch.setattr(tensorrt_runner, "TensorRTRunner", Runner)
    monkeypatch.setattr(module, "runs_here", lambda target: True)
    return gpu


@needs_rtx
def test_a_gpu_verifies_the_new_engine(gpu: SimpleNamespace, denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out.dsr"
    done = cli("compile", denoiser_bundle, "--target", "rtx", "--out", out, "--json")
    report = json.loads(done.out)
    assert (done.code, gpu.opened) == (0, 1)
    assert report["compiled"]["rtx"]["verified"] is True and report["compiled"]["rtx"]["not_run"] is None
    rows = [row for row in report["parity"] if row["runtime"] == "tensorrt_rtx"]
    assert {row["check"] for row in rows} == {
        "batch-1",
        "batch-2",
        "batch-3",
        "batch-4",
        "rows",
        "determinism",
        "batch-invariance",
        "trajectory",
    }
    assert {row["target"] for row in rows} == {"rtx"}

    gpu.gain = 1.5  # compiled again, and wrong: exit 3, and the old engine's rows are gone
    done = cli("compile", out, "--target", "rtx", "--out", out, "--force", "--json")
    report = json.loads(done.out)
    assert (done.code, report["passed"]) == (3, False)
    assert sum(row["runtime"] == "tensorrt_rtx" for row in report["parity"]) == len(rows)
    assert all(row["runtime"] == "tensorrt_rtx" for row in report["parity"] if not row["passed"])

    gpu.gain = 1.0
    assert cli("compile", out, "--target", "rtx", "--out", out, "--force").code == 0


# -- refusals -------------------------------------------------------------------------------------------------------


@WITHOUT_TENSORRT
@pytest.mark.parametrize("target", ["jetson-orin", "trt10"])
def test_a_missing_package_is_named_with_the_way_to_get_it(
    denoiser_bundle: Path, target: str, cli: Cli, tmp_path: Path
) -> None:
    done = cli("compile", denoiser_bundle, "--target", target, "--out", tmp_path / "out.dsr")
    assert done.code == 1
    assert f"target '{target}' needs the package tensorrt" in done.err
    assert "pip install 'dsr-export[tensorrt]'" in done.err
    assert ("JetPack" in done.err) == (target == "jetson-orin")
    assert not list(tmp_path.iterdir())


@needs_rtx
def test_an_op_that_the_target_lacks_is_named_before_any_build(
    denoiser_bundle: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx.load(denoiser_bundle / "model.onnx")
    graph.graph.node.append(onnx.helper.make_node("NonZero", ["t"], ["nowhere"], name="blocks.0/NonZero"))
    bad = rewritten(denoiser_bundle, tmp_path / "bad.dsr", {"model.onnx": graph.SerializeToString()})
    monkeypatch.setattr("dsr_export.backends.tensorrt.build.build_engine", None)  # calling it would fail the test
    done = cli("compile", bad, "--target", "rtx", "--out", tmp_path / "out.dsr")
    assert done.code == 1
    assert "NonZero" in done.err and "blocks.0/NonZero (module blocks.0)" in done.err
    assert not (tmp_path / "out.dsr").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "onnxruntime"), "has no engine"),
        (("--target", "rtx:sm98"), "did you mean 'rtx:sm89'?"),
    ],
)
def test_targets_without_an_engine_are_refused(
    denoiser_bundle: Path, options: tuple[str, ...], said: str, cli: Cli, tmp_path: Path
) -> None:
    done = cli("compile", denoiser_bundle, *options, "--out", tmp_path / "out.dsr")
    assert (done.code, said in done.err) == (1, True), done.err
    assert not list(tmp_path.iterdir())


@needs_rtx
def test_other_refusals_leave_nothing(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(denoiser_bundle, tmp_path / "around" / "copy.dsr"))
    for out in (tmp_path / "around", copy / "inside.dsr"):
        done = cli("compile", copy, "--target", "rtx", "--out", out, "--force")
        assert (done.code, "lie one in the other" in done.err) == (1, True)
    for role in ("decoder", "vae", "text_encoder_3"):
        done = cli("compile", copy, "--target", "rtx", "--component", role, "--out", tmp_path / "out.dsr")
        assert (done.code, f"has no component '{role}'" in done.err) == (1, True)
    (copy / "golden.npz").write_bytes(b"altered")
    done = cli("compile", copy, "--target", "rtx", "--out", tmp_path / "out.dsr")
    assert (done.code, "golden.npz" in done.err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["around"]
