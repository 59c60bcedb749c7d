"""A denoiser with its decoder in one bundle, through every command that knows of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dsr_export.bundle.reader import Bundle
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
