"""A denoiser with its decoder in one bundle, through every command that knows of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from dsr_export.backends.base import as_denoiser
from dsr_export.bundle.components import component_contents, component_entry
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from dsr_export.pipeline import export
from dsr_export.progress import Silent
from dsr_export.sampling import sample, seeded_noise
from dsr_export.verification.model_checks import CLAIMS
from tests.conftest import Cli
from tests.pipeline_parts import DECODER, DENOISER, denoiser_config, rewritten

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from dsr_export.cli import main; main(sys.argv[1:])"
REPORTS = {"report.json", "report.html", "junit.xml"}
DECODER_FILES = {"manifest.json", "model.onnx", "onnxruntime.onnx", "golden.npz", "taps.npz", "sbom.cdx.json", *REPORTS}


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def _around(denoiser: Path, decoder: Path, out: Path) -> Path:
    """Puts bundles together without a build."""
    outer, inner = Bundle.open(denoiser), Bundle.open(decoder)
    contents: dict[str, Path | bytes] = {name: outer.file(name) for name in outer.manifest.files}
    entries = {"decoder": component_entry("decoder", inner.manifest)}
    contents |= component_contents("decoder", decoder, inner.manifest)
    return write_bundle(out, dataclasses.replace(outer.manifest, files={}, components=entries), contents)


def _drifted(decoder: Path, out: Path) -> Path:
    model = onnx.load(decoder / "model.onnx")
    weight = next(t for t in model.graph.initializer if t.name.endswith("decoder_pred.bias"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.1), weight.name))
    return rewritten(decoder, out, {"model.onnx": model.SerializeToString()})


# -- build ----------------------------------------------------------------------------------------------------------


def test_the_component_is_the_bundle_it_was_made_of(pipeline_bundle: Path, decoder_bundle: Path) -> None:
    pipe, decoder = Bundle.open(pipeline_bundle), Bundle.open(decoder_bundle)
    assert pipe.component("decoder").manifest == decoder.manifest
    assert {path.name for path in (pipeline_bundle / "components" / "decoder").iterdir()} == DECODER_FILES
    report = pipe.report()
    assert report["passed"] is True
    assert report["components"] == {"decoder": {"name": "rae-decoder", "precision": "fp32"}}
    assert [(check.get("component"), check["passed"]) for check in report["checks"]] == [
        (None, True),
        ("decoder", True),
    ]


def test_the_same_component_is_up_to_date_and_another_is_not(
    pipeline_bundle: Path, decoder_bundle: Path, tmp_path: Path
) -> None:
    pipe = Path(shutil.copytree(pipeline_bundle, tmp_path / "pipe.dsr"))
    moved = Path(shutil.copytree(decoder_bundle, tmp_path / "moved.dsr"))
    notes = Notes()
    export(denoiser_config(pipe, moved), reporter=notes)
    assert notes.said == [f"{pipe} is up to date"]

    other = rewritten(decoder_bundle, tmp_path / "other.dsr", provenance={"random_seed": 2})  # of the same build key
    for components in ((), (other,)):
        with pytest.raises(ExportError, match="other inputs or options") as caught:
            export(denoiser_config(pipe, *components))
        assert "--force" in str(caught.value.hint)
    replaced = export(denoiser_config(pipe, other, force=True))
    assert replaced.component("decoder").manifest == Bundle.open(other).manifest


def test_a_component_that_failed_fails_the_pipeline(decoder_bundle: Path, tmp_path: Path) -> None:
    report = {**Bundle.open(decoder_bundle).report(), "passed": False}
    failed = rewritten(decoder_bundle, tmp_path / "failed.dsr", {"report.json": json.dumps(report).encode()})
    built = export(denoiser_config(tmp_path / "pipe.dsr", failed)).report()
    assert built["passed"] is False
    assert [check["component"] for check in built["checks"] if not check["passed"]] == ["decoder"]


def test_a_decoder_of_other_latents_is_refused_by_build(decoder_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("build", "--target", "onnxruntime", "--component", decoder_bundle, "--out", tmp_path / "b.dsr")
    assert done.code == 1
    assert "digits has latents 'x' float32 [1, 16, 16]" in done.err
    assert "takes 'z' float32 [8, 4, 4]" in done.err
    assert not list(tmp_path.iterdir())


def test_two_decoders_are_refused_by_build(decoder_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    twice = ("--component", decoder_bundle, "--component", decoder_bundle)
    done = cli("build", "--target", "onnxruntime", *twice, "--out", tmp_path / "b.dsr")
    assert done.code == 1
    assert "hold the decoder" in done.err
    assert not list(tmp_path.iterdir())


# -- verify, inspect, run -------------------------------------------------------------------------------------------


def test_verify_checks_the_component_too(pipeline_bundle: Path, cli: Cli) -> None:
    report = json.loads(cli("verify", pipeline_bundle, "--json").out)
    assert report["passed"] is True
    rows = [(row.get("component"), row["check"], row["output"]) for row in report["parity"]]
    assert {row[1:] for row in rows if row[0] == "decoder"} == {
        ("batch-2", "image"),
        ("rows", "image"),
        ("determinism", "image"),
    }
    assert {row[2] for row in rows if row[0] is None} == {"out", "sample"}
    names = ["half_weight_fraction", *(check.title for check in CLAIMS)]
    assert [(check.get("component"), check["name"]) for check in report["checks"]] == [
        (component, name) for component in (None, "decoder") for name in names
    ]
    assert "decoder/parity-onnxruntime" in {stage["name"] for stage in report["stages"]}
    assert "decoder/image" in cli("verify", pipeline_bundle).out


def test_a_component_that_drifted_fails_with_exit_code_3(
    denoiser_bundle: Path, decoder_bundle: Path, cli: Cli, tmp_path: Path
) -> None:
    pipe = _around(denoiser_bundle, _drifted(decoder_bundle, tmp_path / "drifted.dsr"), tmp_path / "pipe.dsr")
    done = cli("verify", pipe, "--json")
    report = json.loads(done.out)
    assert (done.code, report["passed"]) == (3, False)
    assert {row.get("component") for row in report["parity"] if not row["passed"]} == {"decoder"}
    failed = [line for line in cli("verify", pipe).out.splitlines() if line.startswith("  FAIL")]
    assert failed and all("decoder/image" in line for line in failed)


def test_a_component_of_another_precision_than_it_says_fails(
    denoiser_bundle: Path, decoder_bundle: Path, cli: Cli, tmp_path: Path
) -> None:
    liar = rewritten(decoder_bundle, tmp_path / "liar.dsr", precision="fp16")
    done = cli("verify", _around(denoiser_bundle, liar, tmp_path / "pipe.dsr"))
    assert done.code == 3
    assert "FAIL  decoder/half_weight_fraction: 0.000" in done.out


def test_a_flipped_byte_of_a_component_is_named(pipeline_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(pipeline_bundle, tmp_path / "copy.dsr"))
    for name in sorted(DECODER_FILES):
        path = copy / "components" / "decoder" / name
        content = path.read_bytes()
        path.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
        done = cli("verify", copy)
        assert done.code == 1
        assert f"components/decoder/{name} was changed" in done.err
        path.write_bytes(content)
    assert cli("verify", copy).code == 0


def test_inspect_shows_components(pipeline_bundle: Path, denoiser_bundle: Path, cli: Cli) -> None:
    facts = json.loads(cli("inspect", pipeline_bundle, "--json").out)
    assert facts["model"]["family"] == "rae-dit"
    decoder = facts["components"]["decoder"]
    assert (decoder["model"]["family"], decoder["passed"]) == ("rae-decoder", True)
    assert decoder["inputs"] == [{"name": "z", "dtype": "float32", "shape": ["batch", 8, 4, 4]}]
    assert decoder["graph"]["nodes"] > 10
    assert json.loads(cli("inspect", denoiser_bundle, "--json").out)["components"] == {}


def test_run_takes_a_component(pipeline_bundle: Path, denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    golden = Bundle.open(pipeline_bundle).component("decoder").golden()
    np.savez(tmp_path / "in.npz", z=golden["batch2/in/z"])
    files = ("--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    assert cli("run", pipeline_bundle, *files, "--component", "decoder").code == 0
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_allclose(outputs["image"], golden["batch2/out/image"], atol=1e-5)
    for bundle, role in ((pipeline_bundle, "encoder"), (denoiser_bundle, "decoder")):
        done = cli("run", bundle, *files, "--component", role)
        assert (done.code, f"has no component '{role}'" in done.err) == (1, True)
    assert cli("run", pipeline_bundle, *files, "--component", "vocoder").code == 2


# -- sample ---------------------------------------------------------------------------------------------------------


def _torch_pictures(count: int, *, seed: int, steps: int) -> np.ndarray[Any, Any]:
    """What PyTorch alone makes of the seed: [count, 16, 16, 3] bytes."""
    denoiser = load_subject("rae-dit", random_weights=0, registers=4, **DENOISER)
    decoder = load_subject("rae-decoder", random_weights=1, **DECODER)
    assert denoiser.sampler is not None
    spec = dataclasses.replace(denoiser.sampler, num_steps=steps)
    with denoiser.reference() as runner, torch.inference_mode():
        latents = sample(as_denoiser(runner), spec, seeded_noise(seed, count, (8, 4, 4)), np.arange(count) % 5)
        images = decoder.module(torch.from_numpy(latents))
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = images.permute(0, 2, 3, 1) * std + mean
        return (pixels.clamp(0, 1) * 255).round().byte().numpy()


def _cells(path: Path, count: int, columns: int) -> np.ndarray[Any, Any]:
    """The pictures of a grid of 16x16 images, which are shown fourfold."""
    sheet = np.asarray(Image.open(path))
    corners = [(66 * (i // columns), 66 * (i % columns)) for i in range(count)]
    return np.stack([sheet[top : top + 64 : 4, left : left + 64 : 4] for top, left in corners])


def test_samples_are_the_pictures_that_pytorch_makes(pipeline_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    """Five pictures: two batches of the denoiser, three of the decoder, the last of each filled up."""
    done = cli("sample", pipeline_bundle, "--count", "5", "--seed", "7", "--steps", "6", "-o", tmp_path / "grid.png")
    assert done.code == 0
    assert "5 images of 16x16" in done.out
    shown, expected = _cells(tmp_path / "grid.png", 5, 3).astype(int), _torch_pictures(5, seed=7, steps=6).astype(int)
    assert np.abs(shown - expected).max() <= 1
    assert expected.std() > 20
    for other in range(1, 5):
        assert np.abs(expected[0] - expected[other]).max() > 20  # or a mixed-up order would not show


def test_sampling_a_pipeline_needs_no_torch(pipeline_bundle: Path, tmp_path: Path) -> None:
    options = ["--count", "2", "--steps", "3", "-o", str(tmp_path / "grid.png")]
    for arguments in (["sample", str(pipeline_bundle), *options], ["verify", str(pipeline_bundle)]):
        command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "grid.png").is_file()


def test_latents_without_a_decoder_are_no_picture(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("sample", denoiser_bundle, "--count", "1", "--steps", "2", "-o", tmp_path / "grid.png")
    assert done.code == 1
    assert "8 channels are no picture" in done.err
    assert "--component DECODER.dsr" in done.err
    assert not list(tmp_path.iterdir())
