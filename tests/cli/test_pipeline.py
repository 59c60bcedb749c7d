"""A denoiser with its decoder in one bundle, through every command that knows of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dsr_export.bundle.components import component_contents, component_entry
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from dsr_export.errors import ExportError
from dsr_export.pipeline import export
from dsr_export.progress import Silent
from tests.conftest import Cli
from tests.pipeline_parts import denoiser_config, rewritten

DECODER_FILES = {"manifest.json", "model.onnx", "golden.npz", "report.json"}


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
    assert {row[1:] for row in rows if row[0] == "decoder"} == {("batch-2", "image"), ("rows", "image")}
    assert {row[2] for row in rows if row[0] is None} == {"out", "sample"}
    assert [check.get("component") for check in report["checks"]] == [None, "decoder"]
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
