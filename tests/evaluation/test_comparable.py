"""References that draw something else are refused before anything is drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsr_export.bundle.pipeline_record import SCHEDULER, VaeRecord
from dsr_export.bundle.reader import Bundle
from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.evaluation.comparable import check_comparable
from dsr_export.evaluation.references import torch_reference
from tests.pipeline_parts import rewritten
from tests.pipelines.handmade import SCHEDULER as OWN
from tests.pipelines.handmade import pipeline_bundle as handmade_pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade_pipeline(tmp_path_factory.mktemp("pipeline"))


def _refused(one: Path, other: Path) -> str:
    with pytest.raises(ExportError) as caught:
        check_comparable(Bundle.open(one), Bundle.open(other))
    return caught.value.message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"vae": VaeRecord(scaling_factor=0.25, shift_factor=0.25, scale=2)}, "the VAE"),
        ({"class_name": "PixArtSigmaPipeline"}, "the pipeline PixArtSigmaPipeline, and the bundle PixArtAlpha"),
    ],
)
def test_pipelines_of_another_record_are_refused(
    pipeline: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    record = Bundle.open(pipeline).manifest.pipeline
    assert record is not None
    assert said in _refused(pipeline, rewritten(pipeline, tmp_path / "o.dsr", pipeline=replace(record, **changed)))


def test_pipelines_of_another_scheduler_are_refused(pipeline: Path, tmp_path: Path) -> None:
    files = {SCHEDULER: json.dumps({**OWN, "shift": 3.0}).encode()}
    assert "a scheduler" in _refused(pipeline, rewritten(pipeline, tmp_path / "o.dsr", files))
    files = {SCHEDULER: json.dumps({**OWN, "_diffusers_version": "0.1"}).encode()}
    check_comparable(Bundle.open(pipeline), Bundle.open(rewritten(pipeline, tmp_path / "same.dsr", files)))


def test_a_denoiser_is_no_reference_of_a_pipeline(pipeline: Path, digits_bundle: Path) -> None:
    assert "the pipeline none" in _refused(pipeline, digits_bundle)
    assert "the pipeline Pix" in _refused(digits_bundle, pipeline)


def test_a_reference_of_other_classes_is_refused(digits_bundle: Path, tmp_path: Path) -> None:
    """Image i is of class i of those there are: after the fewer ones both would draw different classes."""
    model = Bundle.open(digits_bundle).manifest.model
    other = rewritten(digits_bundle, tmp_path / "other.dsr", model={**model, "num_classes": 9})
    assert "classes: 9, and the bundle 10" in _refused(digits_bundle, other)


def test_a_bundle_is_comparable_to_itself_and_its_module(digits_bundle: Path, pipeline: Path) -> None:
    for path in (digits_bundle, pipeline):
        check_comparable(Bundle.open(path), Bundle.open(path))
    opened = Bundle.open(digits_bundle)
    check_comparable(opened, torch_reference(opened, ModelRequest()))
