"""The smaller commands, and the promises of all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsr_export.cli import COMMANDS
from tests.conftest import Cli

HEAVY = {"torch", "onnxruntime", "onnx", "numpy", "tensorrt", "tensorrt_rtx", "polygraphy", "rich"}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_needs_no_heavy_import(command: str) -> None:
    program = f"""
import sys
from dsr_export.cli import main
try:
    main({[command] if command else []!r} + ["--help"])
finally:
    print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert "Usage:" in done.stdout


def test_run_takes_and_gives_arrays_by_name(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    with np.load(digits_bundle / "golden.npz") as golden:
        inputs = {name: golden[f"batch2/in/{name}"] for name in ("x", "t", "y")}
        expected = golden["batch2/out/out"]
    np.savez(tmp_path / "in.npz", **inputs)
    done = cli("run", digits_bundle, "--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    assert done.code == 0
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_allclose(outputs["out"], expected, atol=5e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": None}, "'x'"),
        ({"z": np.zeros(2)}, "'z'"),
        ({"x": np.zeros((2, 1, 8, 8), np.float32)}, "'x'"),
        ({"t": np.zeros(2, np.float64)}, "'t'"),
        ({"t": np.zeros(3, np.float32)}, "batch"),
    ],
)
def test_wrong_inputs_are_named_and_leave_nothing(
    change: dict[str, np.ndarray], said: str, digits_bundle: Path, cli: Cli, tmp_path: Path
) -> None:
    right = {"x": np.zeros((2, 1, 16, 16), np.float32), "t": np.ones(2, np.float32), "y": np.array([1, 2])}
    arrays = {name: value for name, value in {**right, **change}.items() if value is not None}
    np.savez(tmp_path / "in.npz", **arrays)
    done = cli("run", digits_bundle, "--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    assert done.code == 1
    assert said in done.err
    assert not (tmp_path / "out.npz").exists()


def test_run_refuses_what_is_no_npz(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in.npz").write_text("no arrays")
    done = cli("run", digits_bundle, "--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    assert done.code == 1
    assert "no readable npz" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ("run", "b.dsr", "--input", "in.npz", "--output"),
        ("sample", "b.dsr", "--trust", "k.pem", "-o"),
        ("sample", "b.dsr", "--trust", "k.pem", "-o", "new.png", "--latents"),
        ("verify", "b.dsr", "--trust", "k.pem", "--html"),
        ("diff", "b.dsr", "b.dsr", "--trust", "k.pem", "--html"),
    ],
    ids=" ".join,
)
def test_no_output_goes_over_what_is_read(
    words: tuple[str, ...], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.dsr").mkdir()
    read = ["b.dsr/model.onnx", "in.npz" if words[0] == "run" else "k.pem"]
    for name in read:
        (tmp_path / name).write_text("read")
    (tmp_path / "link").symlink_to("b.dsr")
    for name in (*read, "link/model.onnx", "b.dsr/new"):
        done = cli(*words, name)
        assert done.code == 1 and "which is left as it is" in done.err, done.err
    assert all((tmp_path / name).read_text() == "read" for name in read)


@pytest.mark.parametrize("command", ["sample", "evaluate"])
@pytest.mark.parametrize("guidance", ["nan", "inf", "-1e300"])
def test_a_guidance_that_is_no_number_is_refused(digits_bundle: Path, cli: Cli, command: str, guidance: str) -> None:
    done = cli(command, digits_bundle, "--guidance", guidance)
    assert done.code == 2 and "'--guidance'" in done.err and "is no number" in done.err


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, which is what it is about
def test_no_samples_are_made_of_nan(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("sample", digits_bundle, "--guidance", "3e38", "--steps", "4", "-o", tmp_path / "made.png")
    assert done.code == 1 and "makes NaN or infinities in a sample" in done.err
    assert not list(tmp_path.iterdir())


def test_samples_are_a_picture_and_depend_on_the_seed_alone(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    options = ("--class", "3", "--count", "4", "--steps", "8")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert cli("sample", digits_bundle, *options, "--seed", seed, "-o", tmp_path / f"{name}.png").code == 0
    pictures = {name: np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc"}
    assert pictures["a"].shape == (130, 130, 3)
    assert pictures["a"].std() > 50  # ink on paper, not grey
    np.testing.assert_array_equal(pictures["a"], pictures["b"])
    assert (pictures["a"] != pictures["c"]).mean() > 0.1


def test_a_class_that_does_not_exist_is_refused(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("sample", digits_bundle, "--class", "10", "-o", tmp_path / "grid.png")
    assert done.code == 1
    assert "use 0 to 9" in done.err
    assert not list(tmp_path.iterdir())


def test_inspect_tells_sites_precision_and_engine(digits_bundle: Path, cli: Cli) -> None:
    facts = json.loads(cli("inspect", digits_bundle, "--json").out)
    assert facts["precision"] == "fp16"
    assert facts["graph"]["dsr_sites"] == ["replacements.2", "replacements.4"]
    assert "float16" in facts["graph"]["weight_bytes"] and "float" not in facts["graph"]["weight_bytes"]
    text = cli("inspect", digits_bundle / "model.onnx").out
    assert "operators:" in text


def test_inspect_refuses_what_is_no_onnx(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\x00garbage")
    done = cli("inspect", tmp_path / "bad.onnx")
    assert done.code == 1
    assert "bad.onnx" in done.err


def test_models_lists_the_default_first(cli: Cli) -> None:
    listed = json.loads(cli("models", "--json").out)["models"]
    assert [model["name"] for model in listed[:2]] == ["digits", "digits-outliers"]
    assert cli("models").out.startswith("digits ")


def test_doctor_says_what_each_target_needs(cli: Cli) -> None:
    facts = json.loads(cli("doctor", "--json").out)
    status = {target["name"]: target["status"] for target in facts["targets"]}
    assert status["onnxruntime"] == "builds and runs here"
    assert "pip install" in status["trt11"]
    assert sum(target["default"] for target in facts["targets"]) == 1
    said = cli("doctor").out
    assert "onnxruntime" in said
    if not facts["gpu"]:
        assert facts["gpu_problem"] in said and "ONNX Runtime cannot use a GPU here" in facts["cuda_provider_problem"]


def test_a_misspelt_command_is_a_usage_error(cli: Cli) -> None:
    assert cli("biuld").code == 2
