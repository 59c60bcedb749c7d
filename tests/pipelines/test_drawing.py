"""Pictures from prompts by a bundle put together by hand, against a loop around diffusers' own scheduler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError, RunnerError
from dsr_export.pipelines.drawing import Pipeline
from dsr_export.pipelines.pictures import pictures
from dsr_export.pipelines.wish import Wish
from dsr_export.prompts import PromptTokenizer
from dsr_export.sampling import seeded_noise
from tests.conftest import Cli
from tests.pipelines import handmade
from tests.pipelines.handmade import CHANNELS, SCALING, SCHEDULER, SHIFT, SIDE, TOKENS, encoded, painted, predicted

PROMPTS = ("  A Cat", "a small red dog and a big blue cat")
NEGATIVE = "Blurry"
STEPS, GUIDANCE = 4, 3.0
BLOCKED = "import sys; sys.modules |= dict.fromkeys(('torch', 'diffusers', 'transformers')); "
COMMAND = f"{BLOCKED}from dsr_export.cli import main; main(sys.argv[1:])"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade.pipeline_bundle(tmp_path_factory.mktemp("handmade"))


def conditioned(bundle: Path, texts: tuple[str, ...]) -> tuple[Any, Any]:
    """States and mask, as PixArt prepares prompts: lower case, without spaces around."""
    tokenizer = PromptTokenizer.from_folder(bundle / "pipeline" / "tokenizer")
    tokens = tokenizer([text.lower().strip() for text in texts], length=TOKENS)
    return encoded(tokens.ids, tokens.mask), tokens.mask.astype(np.float32)


def expected(bundle: Path, noise: Any, prompts: tuple[str, ...], negative: str) -> list[Any]:
    """The latents of every step."""
    diffusers = pytest.importorskip("diffusers", reason="the models extra is not installed")
    import torch

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER)
    scheduler.set_timesteps(STEPS)
    states, mask = conditioned(bundle, prompts)
    nothing, nothing_mask = conditioned(bundle, (negative,) * len(prompts))
    latents, found = torch.from_numpy(noise), []
    for time in scheduler.timesteps:
        times = np.full(len(prompts), float(time), np.float32)
        null = predicted(latents.numpy(), nothing, nothing_mask, times)
        made = predicted(latents.numpy(), states, mask, times)
        guided = torch.from_numpy(null + np.float32(GUIDANCE) * (made - null))
        latents = scheduler.step(guided, time, latents).prev_sample
        found.append(latents.numpy())
    return found


def test_each_step_and_the_picture_are_the_pipelines(bundle: Path) -> None:
    pipeline = Pipeline.of(Bundle.open(bundle))
    noise = seeded_noise(5, 2, (CHANNELS, SIDE, SIDE))
    wish = Wish(prompts=PROMPTS, negative=NEGATIVE, seed=5, steps=STEPS, guidance=GUIDANCE)
    steps = list(pipeline.walk(wish))
    wanted = expected(bundle, noise, PROMPTS, NEGATIVE)
    assert [step.index for step in steps] == list(range(STEPS)) and steps[0].count == STEPS
    for step, latents in zip(steps, wanted, strict=True):
        np.testing.assert_allclose(step.latents, latents, rtol=1e-5, atol=1e-5)
    images = pipeline.decode(steps[-1].latents)
    np.testing.assert_allclose(images, painted(wanted[-1] / SCALING + SHIFT), rtol=1e-4, atol=1e-4)


def test_the_command_needs_neither_torch_nor_diffusers_nor_transformers(bundle: Path, tmp_path: Path) -> None:
    out, latents = tmp_path / "out.png", tmp_path / "latents.npz"
    asked = ["--prompt", PROMPTS[1], "--negative", NEGATIVE, "--seed", "5", "--steps", str(STEPS)]
    asked += ["--guidance", str(GUIDANCE), "--latents", str(latents), "-o", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "sample", str(bundle), *asked], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{out}: 1 images of 8x8" in done.stdout
    assert "does not read the end of a prompt: 'a big blue cat'" in done.stderr
    wanted = expected(bundle, seeded_noise(5, 1, (CHANNELS, SIDE, SIDE)), PROMPTS[1:], NEGATIVE)
    with np.load(latents) as found:
        np.testing.assert_allclose(found["latents"], wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found["noise"], seeded_noise(5, 1, (CHANNELS, SIDE, SIDE)))
        picture = pictures(found["images"])[0]
    np.testing.assert_array_equal(np.asarray(Image.open(out)), picture)


def test_rows_do_not_depend_on_how_many_are_drawn(bundle: Path) -> None:
    pipeline = Pipeline.of(Bundle.open(bundle))
    many = list(pipeline.walk(Wish(prompts=("a cat",) * 5, steps=2)))[-1].latents
    one = list(pipeline.walk(Wish(prompts=("a cat",), steps=2)))[-1].latents
    np.testing.assert_allclose(many[:1], one, rtol=1e-6, atol=1e-6)
    assert np.abs(many[1] - many[0]).max() > 0.1  # of the same prompt, from other noise


def test_pictures_are_rounded_as_diffusers_rounds_them() -> None:
    images = np.linspace(-1.2, 1.2, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    processor = pytest.importorskip("diffusers.image_processor", reason="the models extra is not installed")
    import torch

    wanted = processor.VaeImageProcessor().postprocess(torch.from_numpy(images), output_type="pil")
    np.testing.assert_array_equal(pictures(images)[0], np.asarray(wanted[0]))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "draws what a prompt says"),
        (["--class", "3"], "draws what a prompt says"),
        (["--class", "3", "--prompt", "a cat"], "exclude each other"),
        (["--prompt", "a cat", "--true-guidance", "2"], "--true-guidance is for models that take guidance"),
    ],
)
def test_what_the_pipeline_does_not_take_is_refused(
    bundle: Path, asked: list[str], message: str, cli: Cli, tmp_path: Path
) -> None:
    outcome = cli("sample", bundle, *asked, "-o", tmp_path / "out.png")
    assert outcome.code == 1 and message in outcome.err
    assert not (tmp_path / "out.png").exists()


def test_a_negative_prompt_that_does_not_count_is_said(bundle: Path, cli: Cli, tmp_path: Path) -> None:
    asked = ["--prompt", "a cat", "--steps", "2", "--guidance", "1", "--negative", "bad"]
    outcome = cli("sample", bundle, *asked, "-o", tmp_path / "out.png")
    assert outcome.code == 0 and "the negative prompt does not count at guidance 1" in outcome.err


def test_a_bundle_without_a_pipeline_takes_no_prompt(bundle: Path, cli: Cli, tmp_path: Path) -> None:
    outcome = cli("sample", bundle / "components" / "vae", "--prompt", "a cat", "-o", tmp_path / "out.png")
    assert outcome.code == 1 and "--prompt is for the bundle of a whole pipeline" in outcome.err


def test_a_bundle_without_text_encoders_says_so(tmp_path: Path) -> None:
    path = handmade.pipeline_bundle(tmp_path, record={"text": {}})
    with pytest.raises(ExportError, match="holds no text encoder") as caught:
        list(Pipeline.of(Bundle.open(path)).walk(Wish(prompts=("a cat",), steps=2)))
    assert "--components all" in str(caught.value.hint)


def test_numbers_that_are_none_make_no_picture(bundle: Path) -> None:
    pipeline = Pipeline.of(Bundle.open(bundle))
    noise = np.full((1, CHANNELS, SIDE, SIDE), np.nan, np.float32)
    with pytest.raises(RunnerError, match="the transformer makes NaN or infinities in step 1"):
        list(pipeline.walk(Wish(prompts=("a cat",), steps=2, noise=noise)))
    with pytest.raises(RunnerError, match="the vae makes NaN") as caught:
        pipeline.decode(noise)
    assert "--component-precision vae=fp32" in str(caught.value.hint)
    with pytest.raises(ExportError, match="nothing is to be drawn"):
        list(pipeline.walk(Wish()))
    with pytest.raises(ExportError, match="noise of"):
        list(pipeline.walk(Wish(prompts=("a cat", "a dog"), noise=noise)))


def test_any_part_runs_alone(bundle: Path, cli: Cli, tmp_path: Path) -> None:
    z = np.arange(2 * CHANNELS * SIDE**2, dtype=np.float32).reshape(2, CHANNELS, SIDE, SIDE)
    np.savez(tmp_path / "in.npz", z=z)
    files = ("--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    done = cli("run", bundle, "--component", "vae", *files)
    assert done.code == 0, done.err
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["image"], painted(z), rtol=1e-4, atol=1e-4)
    refused = cli("run", bundle, "--component", "vea", *files)
    assert refused.code == 2 and "'vae'" in refused.err


def test_inspect_tells_of_the_pipeline(bundle: Path, cli: Cli) -> None:
    told = cli("inspect", bundle).out
    assert "class_name: PixArtAlphaPipeline" in told and "tokenizer: tokenizer" in told
