"""A bundle in the place of a pipeline's transformer: diffusers' own pipelines, tiny, make the same latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsr_export.backends.named_arrays import load_arrays
from dsr_export.bundle.reader import Bundle
from dsr_export.config import BatchRange, ExportConfig
from dsr_export.diffusers import attach
from dsr_export.errors import ExportError
from dsr_export.parity.metrics import compare
from tests.families.diffusers.folders import CONFIGS, DIT, FLUX, OPTIONS, PIXART, SD3, original, saved

diffusers = pytest.importorskip("diffusers", reason="the models extra is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, of NumPy 2
STEPS = 3
GOOD_DB = 80.0
OWN: dict[str, dict[str, Any]] = {  # as their pipelines expect
    FLUX: {"in_channels": 16},
    DIT: {"num_embeds_ada_norm": 1000},
    PIXART: {"use_additional_conditions": False},  # the others come with latents of 128 x 128
}


MORE = [pytest.param(name, marks=pytest.mark.slow) for name in (DIT, SD3, PIXART)]


@pytest.fixture(scope="module", params=[FLUX, *MORE])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stage_cache: Path) -> Any:
    """The class and its bundle, in FP32."""
    from dsr_export.pipeline import export

    name, folder = request.param, tmp_path_factory.mktemp("attached")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, name, CONFIGS[name] | OWN.get(name, {}))
        saved(name, folder / "model")
        asked = {"model_dir": folder / "model", "options": OPTIONS[name], "targets": ("onnxruntime",)}
        yield name, export(ExportConfig(**asked, batch=BatchRange(1, 2, 2), out=folder / "built.dsr"))


def vae() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        blocks = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
        sizes = {"block_out_channels": [4], "norm_num_groups": 2, "latent_channels": 4, "sample_size": 8}
        return diffusers.AutoencoderKL(**blocks, **sizes).eval()


def pipeline(name: str) -> Any:
    """Of random weights, whose prompts come embedded."""
    parts: dict[str, Any] = {"transformer": original(name), "vae": vae()}
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    if name == DIT:
        return diffusers.DiTPipeline(**parts, scheduler=diffusers.DDIMScheduler())
    text = {f"{kind}{i}": None for kind in ("text_encoder", "tokenizer") for i in ("", "_2", "_3")}
    if name == SD3:
        return diffusers.StableDiffusion3Pipeline(**parts, scheduler=flow, **text)
    alone = {key: value for key, value in text.items() if not key.endswith("_3")}
    if name == FLUX:
        return diffusers.FluxPipeline(**parts, scheduler=flow, **alone)
    alone = {"text_encoder": None, "tokenizer": None}
    return diffusers.PixArtAlphaPipeline(**parts, scheduler=diffusers.DPMSolverMultistepScheduler(), **alone)


def drawn(pipe: Any, name: str, **other: Any) -> np.ndarray:
    """The last latents, or the pictures of DiT, whose pipeline returns nothing else."""
    random = torch.Generator().manual_seed(3)
    given: dict[str, Any] = {"num_inference_steps": STEPS, "generator": random}
    if name == DIT:
        return np.asarray(pipe([3], output_type="np", guidance_scale=4.0, **given, **other).images)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=random)

    given |= {"prompt_embeds": normal(5, 24), "output_type": "latent", "height": 8, "width": 8}
    if name == PIXART:
        given |= {"negative_prompt": None, "negative_prompt_embeds": normal(5, 24), "use_resolution_binning": False}
        given |= {
            key: torch.tensor([[1, 1, 1, 0, 0]]) for key in ("prompt_attention_mask", "negative_prompt_attention_mask")
        }
    else:
        given |= {"pooled_prompt_embeds": normal(20)}
    if name == SD3:
        given |= {"negative_prompt_embeds": normal(5, 24), "negative_pooled_prompt_embeds": normal(20)}
    if name == FLUX:
        given |= {"width": 6}
    return pipe(**{**given, **other}).images.float().numpy()


def test_the_pipeline_makes_the_same_latents(built: tuple[str, Bundle]) -> None:
    name, bundle = built
    pipe = pipeline(name)
    own = pipe.transformer
    wanted = drawn(pipe, name)
    with attach(pipe, bundle) as attached:
        assert pipe.transformer is attached and not sum(each.numel() for each in attached.parameters())
        assert attached.config is own.config and attached.dtype == torch.float32
        made = drawn(pipe, name)
    snr = compare(wanted, made).snr_db
    assert snr is not None and snr >= GOOD_DB
    assert pipe.transformer is own
    with pytest.raises(ExportError, match="is detached"):
        attached(torch.zeros(1, 4, 8, 8))


def test_a_pipeline_that_was_saved_in_the_meantime_is_whole_again(built: tuple[str, Bundle], tmp_path: Path) -> None:
    name, bundle = built
    pipe = pipeline(name)
    listed = dict(pipe.config)
    with attach(pipe, bundle):
        assert dict(pipe.config) == listed
        pipe.save_pretrained(tmp_path / "without")
    assert not (tmp_path / "without" / "transformer").exists()
    assert {name: pipe.config[name] for name in listed} == listed  # saving adds its class
    pipe.save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole" / "transformer" / "config.json").is_file()


def test_what_the_graph_is_given_is_recorded(built: tuple[str, Bundle], tmp_path: Path) -> None:
    name, bundle = built
    pipe, file = pipeline(name), tmp_path / "inputs.npz"
    with attach(pipe, bundle) as attached:
        with attached.recorded(file):
            drawn(pipe, name)
        drawn(pipe, name)  # not this one
        with pytest.raises(ExportError, match="nothing is recorded"), attached.recorded(tmp_path / "none.npz"):
            pass
        with pytest.raises(ZeroDivisionError), attached.recorded(tmp_path / "none.npz"):
            raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["inputs.npz"]
    rows = STEPS if name == FLUX else 2 * STEPS
    found = load_arrays(file, bundle.manifest.input_specs())
    assert {len(value) for value in found.values()} == {rows}


def test_what_the_bundle_was_not_built_for_is_refused(built: tuple[str, Bundle]) -> None:
    name, bundle = built
    pipe = pipeline(name)
    with attach(pipe, bundle):
        with pytest.raises(ExportError, match="already"):
            attach(pipe, bundle)
        if name == DIT:
            with pytest.raises(ExportError, match="a batch of 4, and the bundle takes 1 to 2") as caught:
                pipe([1, 2], num_inference_steps=1, guidance_scale=4.0)
            assert "--batch 1,2,4" in str(caught.value.hint)
            return
        with pytest.raises(ExportError, match="'hidden_states' in the shape"):
            drawn(pipe, name, height=16)
        if name == FLUX:  # as many tokens, in other places
            with pytest.raises(ExportError, match="another 'img_ids' than the bundle was built with"):
                drawn(pipe, name, height=6, width=8)
        if name == SD3:
            with pytest.raises(ExportError, match="gives 'joint_attention_kwargs|gives 'scale'") as caught:
                drawn(pipe, name, joint_attention_kwargs={"scale": 0.5})
            assert "--lora FILE:SCALE" in str(caught.value.hint)


def test_a_bundle_of_another_model_is_refused(built: tuple[str, Bundle], digits_bundle: Path) -> None:
    name, bundle = built
    pipe = pipeline(name)
    with pytest.raises(ExportError, match="was not built of a diffusers transformer"):
        attach(pipe, digits_bundle)
    pipe.transformer.register_to_config(num_layers=3)
    with pytest.raises(ExportError, match="num_layers is 2 there, and 3 in the pipeline"):
        attach(pipe, bundle)
    pipe.transformer = None
    with pytest.raises(ExportError, match="has no transformer"):
        attach(pipe, bundle)
