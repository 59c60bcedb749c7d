"""A precision that a target lacks is refused before a model, a bundle's graph or calibration data is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dsr_export.building.build import Build
from dsr_export.config import ExportConfig
from dsr_export.errors import ExportError
from dsr_export.fleet.checking import cell_configs, check_precisions
from dsr_export.fleet.matrix import read_matrix
from dsr_export.progress import Silent
from graphs import target_precisions
from graphs.precisions import PRECISIONS
from graphs.target_precisions import NEEDS
from graphs.targets import TARGETS, default_target
from tests.conftest import Cli

REFUSING = ("rtx", "rtx:sm80", "rtx:sm86", "jetson-orin")


@pytest.mark.parametrize("name", REFUSING)
@pytest.mark.parametrize("more", [[], ["--calibration-only"]], ids=["build", "share"])
def test_the_target_comes_before_a_model_that_is_not_there(
    name: str, more: list[str], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--precision", "fp8", "--calibration", "none.npz", *more]
    done = cli("build", "none.onnx", "--target", "rtx:sm89", "--target", name, *given)
    assert done.code == 1 and f"target '{name}' can't run fp8" in done.err
    assert "none" not in done.err and "rtx:sm89 (RTX 40, L4, L40)" in done.err
    assert list(tmp_path.iterdir()) == []


def test_the_default_target_is_no_exception(cli: Cli) -> None:
    if default_target()[0].name != "rtx":
        pytest.skip("needs the rtx extra")
    done = cli("build", "none.onnx", "--precision", "fp8")
    assert done.code == 1 and "target 'rtx' can't run fp8" in done.err


def test_what_a_target_has_goes_on_to_the_model(cli: Cli) -> None:
    done = cli("build", "none.onnx", "--precision", "fp8", "--target", "onnxruntime")
    assert done.code == 1 and "none.onnx" in done.err and "can't run" not in done.err


@pytest.mark.parametrize(("gpu", "refused"), [("7.5", True), ("8.6", False), (None, False)])
def test_parts_have_a_precision_of_their_own(gpu: str | None, refused: bool) -> None:
    config = ExportConfig(model="none", targets=("trt10", "rtx:current"), part_precision={"vae": "bf16"})
    build = Build(config, Silent())
    if not refused:
        build.check_precisions(gpu)
        return
    with pytest.raises(ExportError, match="^vae: target 'trt10' can't run bf16: .*the GPU here has 7.5"):
        build.check_precisions(gpu)


def test_the_gpu_at_hand_decides_of_the_current_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsr_export.building.build.compute_capability", lambda: "8.7")
    done = cli("build", "none.onnx", "--precision", "fp8", "--target", "trt11")
    assert done.code == 1 and "the GPU here has 8.7 (Jetson Orin)" in done.err


def test_a_bundle_is_compiled_for_devices_that_have_its_precision(
    digits_bundle: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is installed: nobody is to install a package for what the target's devices lack."""
    precision = json.loads((digits_bundle / "manifest.json").read_text())["precision"]
    monkeypatch.setitem(target_precisions.NEEDS, precision, replace(NEEDS["fp8"], format=precision))  # type: ignore[arg-type]
    monkeypatch.setattr("dsr_export.recompiling.recompile.check_model", lambda *_: pytest.fail("a graph was read"))
    monkeypatch.setattr("dsr_export.backends.installation.installed_version", lambda package: None)
    out = tmp_path / "out.dsr"
    done = cli("compile", digits_bundle, "--target", "rtx:sm86", "--out", out)
    assert done.code == 1 and f"target 'rtx:sm86' can't run {precision}" in done.err and not out.exists()


@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ("fp16", "hint: the bundle runs there as it is: "),
        ("nvfp4", "hint: it has no kernels for FP4, and its numbers are checked there by emulation: "),
    ],
)
def test_what_can_be_done_without_an_engine_is_said_of_the_bundle(
    precision: str, said: str, digits_bundle: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command in the hint is the one that works, whole."""
    monkeypatch.setitem(target_precisions.NEEDS, "fp16", NEEDS[precision])  # type: ignore[arg-type]
    place = tmp_path / "my bundle.dsr"
    place.symlink_to(digits_bundle)
    done = cli("compile", place, "--target", "onnxruntime", "--out", tmp_path / "out.dsr")
    assert done.code == 1 and "target 'onnxruntime' runs the ONNX graph itself and has no engine" in done.err
    assert f"{said}dsr-export verify '{place}' --runtime onnxruntime" in done.err
    assert not (tmp_path / "out.dsr").exists()


def test_a_matrix_is_refused_as_a_whole(tmp_path: Path, cli: Cli) -> None:
    file, out = tmp_path / "fleet.toml", tmp_path / "out"
    file.write_text('[matrix]\nmodel = ["none.onnx"]\nprecision = ["fp16", "fp8"]\ntarget = ["onnxruntime", "rtx"]\n')
    done = cli("build", "--matrix", file, "--out", out)
    assert done.code == 1 and "cell none.onnx-fp8-rtx: target 'rtx' can't run fp8" in done.err
    assert not out.exists()


def test_cells_of_a_cluster_are_not_judged_by_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsr_export.fleet.checking.compute_capability", lambda: "8.6")
    file = tmp_path / "fleet.toml"
    file.write_text('[matrix]\nmodel = ["digits"]\nprecision = ["fp8"]\ntarget = ["trt11"]\n')
    configs = cell_configs(read_matrix(file))
    check_precisions(configs, here=False)
    with pytest.raises(ExportError, match=r"^cell digits-fp8-trt11: .*the GPU here has 8\.6"):
        check_precisions(configs, here=True)


def test_doctor_lists_what_each_target_takes(cli: Cli) -> None:
    told = {each["name"]: each["precisions"] for each in json.loads(cli("doctor", "--json").out)["targets"]}
    assert set(told) == set(TARGETS) and told["onnxruntime"] == [name for name in PRECISIONS if NEEDS[name].on_cpu]
    assert all("fp8" not in told[name] and "int8" in told[name] for name in REFUSING)
    assert "rtx:sm89      fp32 fp16 bf16 int8 fp8" in cli("doctor").out
