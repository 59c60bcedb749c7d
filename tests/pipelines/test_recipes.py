"""What pipelines do between their models, against diffusers' own functions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsr_export.bundle.pipeline_record import PipelineRecord, TextRecord
from dsr_export.errors import ExportError
from dsr_export.pipelines.dit import DiT
from dsr_export.pipelines.flux import Flux
from dsr_export.pipelines.folder import open_pipeline
from dsr_export.pipelines.parts import PipelineSizes, VaePart
from dsr_export.pipelines.recipe import Encoded, Recipe, dynamic_shift
from dsr_export.pipelines.sana import Sana
from dsr_export.pipelines.sd3 import StableDiffusion3
from dsr_export.pipelines.table import RECIPES
from graphs.artifacts import TensorSpec
from tests.pipelines.folders import pixart_folder
from tests.pipelines.tokenizers_made import clip_tokenizer


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=("batch", *shape))


def flux() -> Flux:
    record = PipelineRecord(class_name="FluxPipeline")
    return Flux(record, [spec("hidden_states", 12, 16)], {"height": 8, "width": 6}, 0)


def test_latents_are_packed_as_flux_packs_them(rng: np.random.Generator) -> None:
    pipeline = pytest.importorskip("diffusers", reason="the models extra is not installed").FluxPipeline
    import torch

    latents = rng.standard_normal((2, *flux().latent)).astype(np.float32)
    wanted = pipeline._pack_latents(torch.from_numpy(latents), 2, 4, 8, 6).numpy()
    np.testing.assert_array_equal(flux().packed(latents), wanted)
    np.testing.assert_array_equal(flux().unpacked(wanted), latents)
    assert flux().time(500.0) == 0.5


@pytest.mark.parametrize("kind", RECIPES)
def test_an_autoencoder_alone_asks_nothing_of_prompts(kind: type[Recipe]) -> None:
    """`--components vae`: there is no text encoder that a prompt's length could be told of."""
    name = "x" if kind is DiT else "hidden_states"
    shape = (12, 16) if kind is Flux else (4, 8, 6)
    record = PipelineRecord(class_name=kind.names[0])
    recipe = kind(record, [spec(name, *shape), spec("encoder_hidden_states", 5, 6)], {"height": 8, "width": 6}, 0)
    part = VaePart(channels=4, height=8, width=6, scale=2, scaling_factor=1.0, shift_factor=0.0)
    recipe.check({"vae": part})
    with pytest.raises(ExportError, match="the autoencoder would be built for"):
        recipe.check({"vae": replace(part, height=4)})


@pytest.mark.parametrize("tokens", [16, 256, 1024, 4096])
@pytest.mark.parametrize("scheduler", [{}, {"base_shift": 0.3, "max_shift": 1.4, "max_image_seq_len": 8192}])
def test_the_shift_is_diffusers_line(tokens: int, scheduler: dict[str, Any]) -> None:
    module = pytest.importorskip("diffusers.pipelines.flux.pipeline_flux", reason="the models extra is not installed")
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    own = dict(zip(names, (256, 4096, 0.5, 1.15), strict=True)) | scheduler
    wanted = module.calculate_shift(tokens, *(own[name] for name in names))
    assert dynamic_shift(scheduler, tokens, most=1.15) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("scheduler", [{"base_image_seq_len": 4096}, {"base_shift": None}, {"max_shift": 1e30}])
def test_a_line_that_is_none_is_refused(scheduler: dict[str, Any]) -> None:
    with pytest.raises(ExportError):
        dynamic_shift(scheduler, 1024, most=1.15)


def test_sd3_puts_clip_beside_clip_and_t5_behind(rng: np.random.Generator) -> None:
    texts = {role: TextRecord(tokenizer="t", tokens=2) for role in ("text_encoder", "text_encoder_2")}
    record = PipelineRecord(class_name="StableDiffusion3Pipeline", text=texts, settings={"t5_tokens": 3})
    recipe = StableDiffusion3(record, [spec("encoder_hidden_states", 5, 6)], {}, 0)

    def made(tokens: int, width: int) -> Encoded:
        states = rng.standard_normal((1, tokens, width))
        return Encoded(mask=np.ones((1, tokens)), embeds=states, pooled=rng.standard_normal((1, 2)))

    first, second, t5 = made(2, 2), made(2, 3), made(3, 6)
    clips = {"text_encoder": first, "text_encoder_2": second}
    found = recipe.conditions({**clips, "text_encoder_3": t5}, negative=False)
    states = found["encoder_hidden_states"]
    np.testing.assert_array_equal(states[:, :2, :5], np.concatenate([first.hidden, second.hidden], -1))
    assert not states[:, :2, 5].any()
    np.testing.assert_array_equal(states[:, 2:], t5.hidden)
    np.testing.assert_array_equal(found["pooled_projections"], np.concatenate([first.vector, second.vector], -1))
    without = recipe.conditions(clips, negative=False)["encoder_hidden_states"]
    assert without.shape == states.shape and not without[:, 2:].any()


def test_sd3_gives_t5_its_own_length_whatever_clips_is(tmp_path: Path) -> None:
    folder = open_pipeline(pixart_folder(tmp_path))
    clip_tokenizer(tmp_path / "tokenizer")  # of 16 tokens
    assert StableDiffusion3.options(PipelineSizes(folder, {})) == {"text_tokens": 16 + 256}
    assert StableDiffusion3.settings(PipelineSizes(folder, {"text_tokens": 28})) == {"t5_tokens": 12}
    with pytest.raises(ExportError, match="CLIP's 16 leave none for T5"):
        StableDiffusion3.settings(PipelineSizes(folder, {"text_tokens": 16}))


def test_sana_keeps_the_first_token_and_the_last_ones() -> None:
    settings = {"instruction": "do ", "text_tokens": 4, "timestep_scale": 0.5}
    text = {"text_encoder": TextRecord(tokenizer="t", tokens=9)}
    record = PipelineRecord(class_name="SanaPipeline", text=text, settings=settings)
    recipe = Sana(record, [spec("encoder_hidden_states", 4, 1)], {}, 0)
    rows = np.arange(9.0)[None]
    encoded = {"text_encoder": Encoded(mask=rows, embeds=rows[..., None])}
    np.testing.assert_array_equal(recipe.conditions(encoded, negative=False)["encoder_attention_mask"], [[0, 6, 7, 8]])
    np.testing.assert_array_equal(recipe.conditions(encoded, negative=True)["encoder_attention_mask"], [[0, 1, 2, 3]])
    assert recipe.text(" A Cat ", "text_encoder", negative=False) == "do a cat"
    assert recipe.text(" A Cat ", "text_encoder", negative=True) == "a cat"
    assert [recipe.length("text_encoder", negative=kind) for kind in (False, True)] == [9, 4]
    assert recipe.time(500.0) == 250.0


def test_dit_guides_by_the_class_that_stands_for_none() -> None:
    record = PipelineRecord(class_name="DiTPipeline")
    full, small = (DiT(record, [spec("x", 4, 8, 8)], {}, classes) for classes in (1000, 10))
    labels = np.array([3, 5])
    np.testing.assert_array_equal(full.labels(labels, null=True)["y"], [1000, 1000])
    np.testing.assert_array_equal(full.labels(labels, null=False)["y"], labels)
    with pytest.raises(ExportError, match="guidance needs the class 1000"):
        small.labels(labels, null=True)
    with pytest.raises(ExportError, match="class 12 does not exist: the model has 10"):
        small.labels(np.array([12]), null=False)
    with pytest.raises(ExportError, match="takes classes, not prompts"):
        full.conditions({}, negative=False)
