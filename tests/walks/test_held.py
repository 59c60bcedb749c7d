"""Which builds of a pipeline are held against its walk, and what is said of those that are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dsr_export.building.build import Build
from dsr_export.building.parts import check_parts
from dsr_export.config import ExportConfig
from dsr_export.progress import Silent
from dsr_export.walks.asked import FEW_STEPS
from dsr_export.walks.shipped_prompts import SHIPPED
from tests.int8.test_pipeline_data import loaded
from tests.pipelines.tiny_pipelines import OPTIONS, tiny_pipeline

NAME = "pixart-sigma"


class Notes(Silent):
    """What is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pixart")
    tiny_pipeline(NAME, made)
    return made / "pipe"


def build_of(folder: Path, **asked: Any) -> tuple[Build, Notes]:
    notes = Notes()
    config = ExportConfig(model_dir=folder, options=OPTIONS[NAME], targets=("onnxruntime",), **asked)
    return Build(config, notes), notes


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_transformer_that_is_built_with_its_encoders_walks_a_few_steps(precision: Any, folder: Path) -> None:
    build, notes = build_of(folder, precision=precision, parts=("all",))
    walk = build.walk
    assert walk is not None and not notes.said
    images = walk.held_out(loaded(folder).card())
    assert (images.count, images.prompts, images.steps) == (2, SHIPPED[-2:], FEW_STEPS)
    assert build.reads["walk"]["last_prompts"] == list(SHIPPED[-2:])


@pytest.mark.parametrize("parts", [(), ("vae",)])
def test_without_the_encoders_a_low_type_is_said_to_be_unproved(parts: tuple[str, ...], folder: Path) -> None:
    build, notes = build_of(folder, precision="fp16", parts=parts)
    assert build.walk is None
    (said,) = notes.said
    assert "--components all" in said
    build, notes = build_of(folder, precision="fp32", parts=parts)
    assert build.walk is None and not notes.said


def test_a_pipeline_that_is_not_known_is_built_as_ever_and_said(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "pipe"
    shutil.copytree(folder, other)
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps({**index, "_class_name": "WanPipeline"}))
    build, notes = build_of(other, precision="fp16")
    assert build.walk is None
    (said,) = notes.said
    assert "no pipeline known here" in said and "--components" not in said


def test_a_scheduler_that_takes_no_such_steps_does_not_end_an_unquantised_build(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsr_export.errors import ExportError

    build, notes = build_of(folder, precision="fp16", parts=("all",))
    assert build.walk is not None

    def refused(*_: Any) -> None:
        raise ExportError("it takes no 6 steps")

    monkeypatch.setattr("dsr_export.walks.asked.schedule", refused)
    with pytest.raises(ExportError, match="it takes no 6 steps") as told:
        build.walk.check(loaded(folder).card())
    assert told.value.__cause__ is None  # or whoever follows causes never ends
    check_parts(build, loaded(folder).card())
    assert build.walk is None
    assert [said for said in notes.said if "it takes no 6 steps" in said]
