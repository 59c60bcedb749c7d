"""`diagnose` of a whole pipeline: its own prompts, its own sampler, and a dsr.toml that a build takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsr_export.config import ModelRequest
from dsr_export.declarations.dsr_file import read_dsr_file
from dsr_export.diagnosis.diagnose import DiagnosisOptions, diagnose
from dsr_export.errors import ExportError
from dsr_export.sources import find_source
from dsr_export.subject import require_module
from dsr_export.walks import encoders
from tests.conftest import Cli
from tests.diagnosis.streams.planted_pipeline import PROMPTS, SIZES, planted_pipeline
from tests.html.reading import check_document
from tests.pipelines.tiny_pipelines import tiny_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, of NumPy 2


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n\n".join(PROMPTS) + "\n", encoding="utf-8")
    return file


def test_sinks_of_both_streams_are_found_by_role_and_replaced(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    monkeypatch.setattr(
        encoders, "find_source", lambda asked: loads.append(asked.options["part"]) or find_source(asked)
    )
    request = ModelRequest(model_dir=planted_pipeline(tmp_path), options=SIZES)
    out = tmp_path / "found"
    made = diagnose(request, DiagnosisOptions(prompts=prompts, steps=2, out=out))
    assert made["outliers"] is True and made["stage"] == "pipeline"
    assert sorted(loads) == ["text_encoder", "text_encoder_2", "text_encoder_3"]  # once each, for all walks
    record = json.loads((out / "diagnosis.json").read_text())
    sites = {(site["layer"], site["stream"]): site for site in record["sites"]}
    assert list(sites) == [(0, "image"), (1, "image"), (0, "text")]
    for layer in (0, 1):  # two prompts and their absence, two steps, four corners
        assert sites[layer, "image"]["roles"]["corner"] == {"tokens": 32, "outliers": 32, "share": 1.0}
        assert sites[layer, "image"]["roles"]["other"]["outliers"] == 0
    padding = sites[0, "text"]["roles"]["padding"]
    assert padding["share"] == 1.0 and 0 < padding["outliers"] < padding["tokens"]  # CLIP's padding is no sink
    off, proposed = record["runs"]
    assert all(any(ratios) for ratios in off["ratios"].values())
    assert not any(any(ratios) for ratios in proposed["ratios"].values())
    assert {"svg", "table"} <= check_document((out / "index.html").read_text())
    spec = read_dsr_file(out / "dsr.toml").spec.denoiser
    assert [(group.layers, group.stream) for group in spec.replace] == [
        ((0,), "image"),
        ((1,), "image"),
        ((0,), "text"),
    ]
    again = ModelRequest(model_dir=request.model_dir, options=SIZES, dsr=out / "dsr.toml")
    subject = require_module(find_source(again).load())
    assert subject.dsr.denoiser == spec and subject.sites["ReplaceOutliers"] == 3


def test_classes_need_no_prompts(tmp_path: Path) -> None:
    tiny_pipeline("dit", tmp_path)
    asked = DiagnosisOptions(count=2, steps=2, out=tmp_path / "found")
    made = diagnose(ModelRequest(model_dir=tmp_path / "pipe"), asked)
    assert made["outliers"] is False and made["grid"] == [1, 4, 4]
    assert made["verdict"]["command"].startswith("dsr-export build --model-dir ")
    with pytest.raises(ExportError, match="DiTPipeline takes classes"):
        diagnose(ModelRequest(model_dir=tmp_path / "pipe"), DiagnosisOptions(prompts=_file(tmp_path, "a cat")))


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "none are given"), ("\n \n", "holds no prompts"), (b"\xff\xfe\x00", "no text in UTF-8")],
)
def test_prompts_are_asked_for_before_anything_is_loaded(text: Any, message: str, tmp_path: Path) -> None:
    tiny_pipeline("pixart-alpha", tmp_path)
    file = None if text is None else _file(tmp_path, text)
    with pytest.raises(ExportError, match=message):
        diagnose(ModelRequest(model_dir=tmp_path / "pipe"), DiagnosisOptions(prompts=file, out=tmp_path / "found"))


def test_the_command_takes_a_pipeline_and_its_prompts(tmp_path: Path, prompts: Path, cli: Cli) -> None:
    tiny_pipeline("pixart-alpha", tmp_path)
    told = ("diagnose", "--model-dir", tmp_path / "pipe", "--option", "text_tokens=12", "--out", tmp_path / "found")
    without = cli(*told)
    assert without.code == 1 and "give --prompts FILE" in without.err
    done = cli(*told, "--prompts", prompts, "--steps", "2", "--count", "3", "--json")
    assert done.code == 0, done.err
    made = json.loads(done.out)
    assert made["settings"]["images"] == 3 and made["settings"]["prompts"] == list(PROMPTS)
    assert "sites" not in made and made["verdict"]["command"].endswith("--option text_tokens=12 --components all")


def test_a_transformer_alone_is_refused(tmp_path: Path) -> None:
    tiny_pipeline("pixart-alpha", tmp_path)
    with pytest.raises(ExportError, match="without its pipeline"):
        diagnose(ModelRequest(model_dir=tmp_path / "pipe" / "transformer"), DiagnosisOptions(out=tmp_path / "found"))


FILM: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 10,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "patch_size_t": 1,
    "text_embed_dim": 16,
    "pooled_projection_dim": 8,
    "rope_axes_dim": [2, 4, 4],
    "guidance_embeds": True,
}
"""HunyuanVideo's."""


def test_a_films_first_frame_is_told_from_its_corners(tmp_path: Path) -> None:
    """A transformer without its pipeline, from inputs: the first latent frame is far larger than the other five."""
    diffusers = pytest.importorskip("diffusers", reason="the models extra is not installed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        diffusers.HunyuanVideoTransformer3DModel(**FILM).save_pretrained(tmp_path / "film")
    sizes = {"latent_height": 8, "latent_width": 8, "latent_frames": 6, "text_tokens": 5}
    request = ModelRequest(model_dir=tmp_path / "film", options=sizes)
    inputs = require_module(find_source(request).load()).example(3, seed=0)
    inputs["hidden_states"][:, :, 0] *= 100
    np.savez(tmp_path / "rows.npz", **inputs)
    out = tmp_path / "found"
    with pytest.raises(ExportError, match="--steps is of no use"):
        diagnose(request, DiagnosisOptions(inputs=tmp_path / "rows.npz", steps=3, out=out))
    made = diagnose(request, DiagnosisOptions(inputs=tmp_path / "rows.npz", out=out))
    assert made["outliers"] is True and made["grid"] == [6, 4, 4]
    sites = json.loads((out / "diagnosis.json").read_text())["sites"]
    assert [(site["layer"], site["stream"]) for site in sites] == [(0, "image"), (1, "image"), (0, "text")]
    roles = sites[0]["roles"]
    assert roles["first frame"] == {"tokens": 36, "outliers": 36, "share": 0.75}
    assert roles["corner"] == {"tokens": 72, "outliers": 12, "share": 0.25}
    assert roles["other"]["outliers"] == 0
    given = int(inputs["encoder_attention_mask"].sum())
    assert {role: each["tokens"] for role, each in sites[2]["roles"].items()} == {"padding": 15 - given, "other": given}
    assert read_dsr_file(out / "dsr.toml").spec.denoiser.replace[0].threshold == sites[0]["threshold"]


@pytest.mark.parametrize(
    ("model", "asked", "message"),
    [
        ("digits", {"inputs": "random:0"}, "--inputs is for diffusers transformers"),
        ("digits", {"prompts": __file__}, "--prompts is for a pipeline"),
        ("digits", {"inputs": "trajectory"}, "without its pipeline a transformer has none"),
    ],
)
def test_options_of_other_models_are_refused(model: str, asked: dict[str, str], message: str, tmp_path: Path) -> None:
    options = DiagnosisOptions(**{name: Path(value) for name, value in asked.items()}, out=tmp_path / "found")
    with pytest.raises(ExportError, match=message):
        diagnose(ModelRequest(model=model), options)


def _file(folder: Path, text: str | bytes) -> Path:
    file = folder / "given.txt"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file
