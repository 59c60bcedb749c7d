"""`dsr-export verify`: right bundles pass without torch, altered ones are named, drifted ones fail with 3."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from tests.conftest import Cli

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from dsr_export.cli import main; main(sys.argv[1:])"


@pytest.fixture
def copy(digits_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_bundle, tmp_path / "copy.dsr"))


def _run_without_torch(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_verify_passes_without_torch_and_writes_nothing(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    done = _run_without_torch("verify", copy, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    sizes = {f"batch-{size}" for size in (1, 2, 4, 6, 8)}
    others = {"fused", "rows", "determinism", "batch-invariance", "trajectory"}
    assert {row["check"] for row in report["parity"]} == sizes | others
    assert [row["image"] for row in report["images"]] == [0, 1, 2, 3]
    assert all(row["passed"] and row["ssim"] > 0.999 for row in report["images"])
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


@pytest.mark.parametrize("command", ["inspect", "sample", "run"])
def test_other_device_commands_work_without_torch(command: str, digits_bundle: Path, tmp_path: Path) -> None:
    inputs = {"x": np.zeros((2, 1, 16, 16), np.float32), "t": np.ones(2, np.float32), "y": np.array([1, 2])}
    np.savez(tmp_path / "in.npz", **inputs)
    options = {
        "inspect": [],
        "sample": ["--count", "2", "--steps", "3", "-o", tmp_path / "grid.png"],
        "run": ["--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz"],
    }
    done = _run_without_torch(command, digits_bundle, *options[command])
    assert done.returncode == 0, done.stderr


def test_a_flipped_byte_in_any_file_is_found_and_named(copy: Path, cli: Cli) -> None:
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    names = {"manifest.json", "model.onnx", "golden.npz", "report.json", "report.html", "junit.xml"}
    assert {path.name for path in files} >= names
    for path in files:
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        done = cli("verify", copy)
        assert done.code == 1, path
        assert path.name in done.err
        path.write_bytes(content)
    assert cli("inspect", copy).code == 0


def _rehashed(bundle: Path, model: onnx.ModelProto, out: Path) -> Path:
    """The bundle with another graph and honest hashes: what a wrong conversion would look like."""
    opened = Bundle.open(bundle)
    contents: dict[str, Path | bytes] = {name: opened.file(name) for name in opened.manifest.files}
    contents["model.onnx"] = model.SerializeToString()
    return write_bundle(out, dataclasses.replace(opened.manifest, files={}), contents)


def test_a_drifted_weight_fails_with_exit_code_3(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    model = onnx.load(digits_bundle / "model.onnx")
    (weight,) = (t for t in model.graph.initializer if t.name.startswith("blocks.4.adaLN_modulation.1.weight"))
    drifted = numpy_helper.to_array(weight).copy()
    drifted[:, 0] *= 3
    weight.CopyFrom(numpy_helper.from_array(drifted, weight.name))
    done = cli("verify", _rehashed(digits_bundle, model, tmp_path / "drifted.dsr"), "--json")
    report = json.loads(done.out)
    assert (done.code, report["passed"]) == (3, False)
    assert any(not row["passed"] for row in report["parity"])
    (reader,) = (node.name for node in model.graph.node if weight.name in node.input)
    assert report["bisection"]["site"] == ".".join(reader.split(".")[:2])
    assert reader.startswith(report["bisection"]["module"])


def test_bisect_shows_the_error_after_each_block_without_torch(digits_bundle: Path) -> None:
    done = _run_without_torch("verify", digits_bundle, "--bisect", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["bisection"]
    assert (found["site"], found["module"], found["roles"]) == (None, None, {})
    sites = [point["site"] for point in found["curve"]]
    assert [site for site in sites if site.startswith("blocks.")] == [f"blocks.{i}" for i in range(8)]
    assert all(point["snr_db"] > 50 for point in found["curve"])


def test_a_failed_verification_names_the_module_unasked(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    model = onnx.load(digits_bundle / "model.onnx")
    (bias,) = (t for t in model.graph.initializer if t.name.startswith("final_layer.linear.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float16(0.5), bias.name))
    done = cli("verify", _rehashed(digits_bundle, model, tmp_path / "bias.dsr"))
    assert done.code == 3
    assert "first site at fault: final_layer, in module final_layer.linear" in done.out
    assert "patch    256 tokens: SNR" in done.out


def test_a_bundle_without_taps_is_verified_all_the_same(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    opened = Bundle.open(digits_bundle)
    contents = {name: opened.file(name) for name in opened.manifest.files if name != "taps.npz"}
    old = write_bundle(tmp_path / "old.dsr", dataclasses.replace(opened.manifest, files={}), contents)
    done = cli("verify", old, "--bisect")
    assert done.code == 0
    assert "the bundle has no taps.npz" in done.out


def test_nan_fails_with_its_reason(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    model = onnx.load(digits_bundle / "model.onnx")
    (bias,) = (t for t in model.graph.initializer if t.name.startswith("final_layer.linear.bias"))
    bias.CopyFrom(numpy_helper.from_array(np.full(bias.dims, np.nan, np.float16), bias.name))
    done = cli("verify", _rehashed(digits_bundle, model, tmp_path / "nan.dsr"))
    assert done.code == 3
    assert "are NaN or infinite" in done.out


def test_full_precision_weights_in_an_fp16_bundle_fail(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    from dsr_export.config import ExportConfig
    from dsr_export.pipeline import export

    full = export(ExportConfig(precision="fp32", targets=("onnxruntime",), out=tmp_path / "full.dsr"))
    done = cli("verify", _rehashed(digits_bundle, onnx.load(full.file("model.onnx")), tmp_path / "liar.dsr"))
    assert done.code == 3
    assert "FAIL  half_weight_fraction: 0.000" in done.out


@pytest.mark.parametrize(("path", "said"), [("nowhere.dsr", "nowhere.dsr"), (".", "manifest.json")])
def test_what_is_no_bundle_is_refused(path: str, said: str, cli: Cli, tmp_path: Path) -> None:
    done = cli("verify", tmp_path / path)
    assert done.code == 1
    assert said in done.err


def test_a_runtime_that_is_not_there_is_refused(digits_bundle: Path, cli: Cli) -> None:
    done = cli("verify", digits_bundle, "--runtime", "tensorrt")
    assert done.code == 1
    assert "holds no tensorrt engine" in done.err
