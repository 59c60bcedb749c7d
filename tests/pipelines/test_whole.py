"""Whole pipelines, built and drawn, against diffusers' own: the latents of every step, and the pictures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dsr_export.bundle.reader import Bundle
from dsr_export.config import BatchRange, ExportConfig
from dsr_export.parity.metrics import compare
from dsr_export.pipelines.drawing import Pipeline
from dsr_export.pipelines.wish import Wish
from dsr_export.verification.verify import verify
from tests.pipelines.test_drawing import COMMAND
from tests.pipelines.tiny_pipelines import MADE, OPTIONS, tiny_pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers, of NumPy 2
]
STEPS = 4
LONG = "a small red dog and a big blue cat on the table with a bad photo of a dog"
PROMPTS = ("A Cat on the table", "", LONG)
NEGATIVE = "blurry bad"
GOOD_DB = {"fp32": 80.0, "fp16": 40.0}
ROOM_DB = 3.0  # below the witness
TOKENS = 12


def built(
    name: str,
    folder: Path,
    precision: str = "fp32",
    most: int = 4,
    parts: tuple[str, ...] = ("all",),
    changed: Callable[[Any], None] | None = None,
) -> tuple[Any, Bundle]:
    """diffusers' own pipeline, and its bundle."""
    from dsr_export.pipeline import export

    pipe = tiny_pipeline(name, folder)
    if changed is not None:
        changed(pipe)
        pipe.save_pretrained(folder / "pipe")
    config = ExportConfig(
        model_dir=folder / "pipe",
        parts=parts,
        options=OPTIONS[name],
        precision=precision,  # type: ignore[arg-type]
        targets=("onnxruntime",),
        batch=BatchRange(1, 2, most),
        out=folder / f"{precision}.dsr",
    )
    return pipe, export(config)


def reference(pipe: Any, name: str, wish: Wish, noise: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """The latents behind each of its scheduler's steps, [n, C, h, w], and its pictures [n, H, W, 3] in [0, 1]."""
    found: list[np.ndarray] = []
    step, height, width = pipe.scheduler.step, *noise.shape[2:]
    given = torch.from_numpy(noise).to(pipe.dtype)
    if name == "flux":
        given = pipe._pack_latents(given, len(noise), noise.shape[1], height, width)

    def watched(*args: Any, **kwargs: Any) -> Any:
        made = step(*args, **kwargs)
        state = made[0] if isinstance(made, tuple) else made.prev_sample
        if name == "flux":
            state = pipe._unpack_latents(state, height * 2, width * 2, 2)
        found.append(state[: len(noise)].float().numpy().copy())
        return made

    asked: dict[str, Any] = {"num_inference_steps": wish.steps, "output_type": "np", "guidance_scale": wish.guidance}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe.scheduler, "step", watched)
        if name == "dit":
            patch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *_, **__: given.clone())
            return found, np.asarray(pipe(list(wish.labels), **asked).images)
        asked |= {"prompt": list(wish.prompts), "latents": given, "max_sequence_length": TOKENS}
        asked |= {"height": height * 2, "width": width * 2}
        if wish.negative is not None:
            asked["negative_prompt"] = [wish.negative] * wish.count
        if wish.true_guidance is not None:
            asked["true_cfg_scale"] = wish.true_guidance
        if name.startswith(("pixart", "sana")):
            asked["use_resolution_binning"] = False
        return found, np.asarray(pipe(**asked).images)


def wish_for(name: str, guidance: float) -> Wish:
    if name == "dit":
        return Wish(labels=(3, 999, 3), seed=2, steps=STEPS, guidance=guidance)
    true = {"true_guidance": 2.5} if name == "flux" else {}
    return Wish(prompts=PROMPTS, negative=NEGATIVE, seed=2, steps=STEPS, guidance=guidance, **true)


def rounded(pipe: Any, name: str, wish: Wish, noise: np.ndarray) -> float:
    """SNR in dB of the pipeline's own last latents where PyTorch runs it in half: the witness."""
    latents, _ = reference(pipe, name, wish, noise)
    pipe.to(torch.float16)
    return compare(latents[-1], reference(pipe, name, wish, noise)[0][-1]).snr_db or 0.0


def check(pipe: Any, name: str, bundle: Bundle, wish: Wish, good: float) -> None:
    drawn = Pipeline.of(bundle)
    steps = list(drawn.walk(wish))
    latents, pictures = reference(pipe, name, wish, drawn.noise(wish))
    assert len(latents) == len(steps)
    for made, wanted in zip(steps, latents, strict=True):
        assert (compare(wanted, made.latents).snr_db or 0) >= good
    images = np.clip(drawn.decode(steps[-1].latents) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    assert (compare(pictures, images).snr_db or 0) >= good


@pytest.mark.parametrize("name", MADE)
def test_latents_of_each_step_and_pictures_are_those_of_diffusers(name: str, tmp_path: Path, stage_cache: Path) -> None:
    pipe, bundle = built(name, tmp_path)
    assert bundle.passed_when_built()
    check(pipe, name, bundle, wish_for(name, 3.0), GOOD_DB["fp32"])
    plain = (
        Wish(prompts=PROMPTS[:1], steps=2, guidance=1.0) if name != "dit" else Wish(labels=(1,), steps=2, guidance=1)
    )
    check(pipe, name, bundle, plain, GOOD_DB["fp32"])
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["sd3", "flux", "pixart-alpha", "sana", "dit"])
def test_half_precision_stays_close(name: str, tmp_path: Path, stage_cache: Path) -> None:
    pipe, bundle = built(name, tmp_path, "fp16")
    assert {role: part.manifest.precision for role, part in bundle.components.items()} == dict.fromkeys(
        bundle.components, "fp16"
    )
    wish = wish_for(name, 1.5)
    witness = rounded(tiny_pipeline(name, tmp_path / "again"), name, wish, Pipeline.of(bundle).noise(wish))
    check(pipe, name, bundle, wish, min(GOOD_DB["fp16"], witness - ROOM_DB))
    assert verify(bundle.path)["passed"] is bundle.passed_when_built()
    assert bundle.passed_when_built() or name == "sana"  # whose tiny attention of four channels half can't tell apart


def test_what_only_prompts_make_larger_than_half_holds_stays_wide(tmp_path: Path, stage_cache: Path) -> None:
    """As T5's states are far larger than unit normals, of which the other golden rows are drawn."""
    pipe, bundle = built("pixart-alpha", tmp_path, "fp16", changed=_loud)
    assert bundle.passed_when_built()
    checks = {each["check"] for each in bundle.report()["parity"]}
    assert "walk" in checks
    wish = wish_for("pixart-alpha", 1.5)
    check(pipe, "pixart-alpha", bundle, wish, GOOD_DB["fp16"])


def _loud(pipe: Any) -> None:
    """What a prompt becomes is so large that its projection overflows in half, and is made small again behind that."""
    projection = pipe.transformer.caption_projection
    with torch.no_grad():
        pipe.text_encoder.encoder.final_layer_norm.weight *= 5e3
        projection.linear_1.weight *= 100
        projection.linear_2.weight *= 1e-6


def test_the_command_draws_without_the_packages_it_was_built_with(tmp_path: Path, stage_cache: Path) -> None:
    pipe, bundle = built("sd3", tmp_path)
    out = tmp_path / "out.png"
    asked = ["--prompt", LONG, "--negative", NEGATIVE, "--steps", "3", "--guidance", "4", "-o", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "sample", str(bundle.path), *asked], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    wish = Wish(prompts=(LONG,), negative=NEGATIVE, steps=3, guidance=4.0)
    _, pictures = reference(pipe, "sd3", wish, Pipeline.of(bundle).noise(wish))
    shown = np.asarray(Image.open(out)).astype(int)
    assert np.abs(shown - (pictures[0] * 255).round().astype(int)).max() <= 1


def test_the_same_build_is_up_to_date_and_another_part_is_not(tmp_path: Path, stage_cache: Path) -> None:
    from dsr_export.errors import ExportError
    from dsr_export.pipeline import export

    tiny_pipeline("dit", tmp_path)
    asked: dict[str, Any] = {"model_dir": tmp_path / "pipe", "targets": ("onnxruntime",), "batch": BatchRange(1, 2, 2)}
    config = ExportConfig(**asked, parts=("all",), out=tmp_path / "a.dsr")
    first = export(config).manifest.digest
    assert export(config).manifest.digest == first
    with pytest.raises(ExportError, match="holds a bundle of other inputs or options"):
        export(ExportConfig(**asked, out=tmp_path / "a.dsr"))
