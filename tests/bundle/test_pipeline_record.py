"""What a manifest says of the pipeline around its model, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from dsr_export.bundle.manifest import FileEntry, Manifest
from dsr_export.bundle.pipeline_record import PipelineRecord, TextRecord, VaeRecord
from dsr_export.errors import ExportError
from dsr_export.storage.canonical import sealed_bytes

FILES = ("model.onnx", "pipeline/scheduler_config.json", "pipeline/tokenizer/tokenizer.json")
RECORD = PipelineRecord(
    class_name="PixArtAlphaPipeline",
    text={"text_encoder": TextRecord(tokenizer="tokenizer", tokens=120)},
    vae=VaeRecord(scaling_factor=0.13, shift_factor=0.0, scale=8),
    settings={"instruction": ""},
)


def around(manifest: Manifest, files: tuple[str, ...] = FILES) -> Manifest:
    entries = {name: FileEntry(sha256="0" * 64, size=1) for name in (*files, "engines/rtx.plan")}
    return replace(manifest, pipeline=RECORD, files=entries)


def test_the_record_survives_and_is_absent_without_a_pipeline(manifest: Manifest) -> None:
    whole = around(manifest)
    assert Manifest.from_bytes(whole.to_bytes(), where="m") == whole
    assert b'"pipeline"' not in replace(manifest, files=whole.files).to_bytes()


VAE = asdict(RECORD)["vae"]
FAULTS: list[tuple[Mapping[str, Any], str]] = [
    ({"text": {"vocoder": {"tokenizer": "tokenizer", "tokens": 1}}}, "only the roles text_encoder"),
    ({"text": {"text_encoder": {"tokenizer": "tokenizer_2", "tokens": 1}}}, "one whose files lie in pipeline/"),
    ({"text": {"text_encoder": {"tokenizer": "tokenizer", "tokens": 0}}}, "an integer from 1"),
    ({"vae": {**VAE, "scaling_factor": 0.0}}, "another number than 0"),
    ({"vae": {**VAE, "scale": 1e9}}, "an integer from 1"),
    ({"vae": {**VAE, "more": 1}}, "unknown key 'more'"),
    ({"class_name": ""}, "a string of 1 to"),
    ({"settings": []}, "an object"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_anything_else_is_refused(manifest: Manifest, change: Mapping[str, Any], message: str) -> None:
    value = around(manifest).as_dict()
    value["pipeline"] = {**value["pipeline"], **change}
    with pytest.raises(ExportError) as caught:
        Manifest.from_bytes(sealed_bytes(value), where=Path("m"))
    assert message in caught.value.message


def test_its_scheduler_lies_beside_it(manifest: Manifest) -> None:
    value = around(manifest, ("model.onnx", "pipeline/tokenizer/tokenizer.json")).as_dict()
    with pytest.raises(ExportError, match="a bundle with pipeline/scheduler_config"):
        Manifest.from_bytes(sealed_bytes(value), where=Path("m"))
