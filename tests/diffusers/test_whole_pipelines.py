"""Bundles of whole pipelines in the place of all their parts: diffusers makes the same latents and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsr_export.bundle.reader import Bundle
from dsr_export.diffusers import attach
from dsr_export.parity.metrics import compare
from dsr_export.pipelines.drawing import Pipeline
from dsr_export.pipelines.wish import Wish
from tests.pipelines.test_whole import GOOD_DB, ROOM_DB, built, reference, wish_for
from tests.pipelines.tiny_pipelines import MADE, tiny_pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers, of NumPy 2
]
PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
ROWS = 6  # three prompts, and guidance


def noise_for(bundle: Bundle, count: int) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((count, *Pipeline.of(bundle).recipe.latent)).astype(np.float32)


def witness(pipe: Any, name: str, wish: Wish, noise: np.ndarray) -> tuple[float, float]:
    """SNR in dB of its own last latents and picture where PyTorch runs it in half."""
    latents, picture = reference(pipe, name, wish, noise)
    pipe.to(torch.float16)
    rounded, drawn = reference(pipe, name, wish, noise)
    return compare(latents[-1], rounded[-1]).snr_db or 0, compare(picture, drawn).snr_db or 0


def check(pipe: Any, name: str, bundle: Bundle, good: tuple[float, float], guidance: float) -> None:
    """With every part attached, and then with none; `good` is in dB, of latents and of the picture."""
    wish = wish_for(name, guidance)
    noise = noise_for(bundle, wish.count)
    own = {role: getattr(pipe, role) for role in PARTS if getattr(pipe, role, None) is not None}
    wanted, picture = reference(pipe, name, wish, noise)
    with attach(pipe, bundle) as attached:
        assert set(attached.parts) == set(own)
        assert not sum(each.numel() for role in own for each in getattr(pipe, role).parameters())
        latents, made = reference(pipe, name, wish, noise)
    assert len(latents) == len(wanted)
    for ours, theirs in zip(latents, wanted, strict=True):
        assert (compare(theirs, ours).snr_db or 0) >= good[0]
    assert (compare(picture, made).snr_db or 0) >= good[1]
    assert {role: getattr(pipe, role) for role in own} == own
    np.testing.assert_array_equal(reference(pipe, name, wish, noise)[1], picture)


@pytest.mark.parametrize("name", MADE)
def test_every_step_and_the_picture_are_the_pipelines(name: str, tmp_path: Path, stage_cache: Path) -> None:
    pipe, bundle = built(name, tmp_path, most=ROWS)
    check(pipe, name, bundle, (GOOD_DB["fp32"], GOOD_DB["fp32"]), 3.0)


@pytest.mark.parametrize("name", ["sd3", "flux", "pixart-alpha", "sana", "dit"])
def test_half_precision_stays_close(name: str, tmp_path: Path, stage_cache: Path) -> None:
    pipe, bundle = built(name, tmp_path, "fp16", most=ROWS)
    wish = wish_for(name, 1.5)
    half = witness(tiny_pipeline(name, tmp_path / "again"), name, wish, noise_for(bundle, wish.count))
    latents, picture = (min(GOOD_DB["fp16"], each - ROOM_DB) for each in half)
    check(pipe, name, bundle, (latents, picture), 1.5)


@pytest.mark.parametrize("name", ["sd3", "flux", "pixart-sigma", "sana"])
def test_what_encoders_return_is_what_transformers_returns(name: str, tmp_path: Path, stage_cache: Path) -> None:
    """Of the same type, at the same places, as far as the bundle holds it."""
    pipe, bundle = built(name, tmp_path)
    with attach(pipe, bundle) as attached:
        for role in [role for role in attached.parts if role.startswith("text")]:
            part: Any = attached.parts[role]
            tokens = int(bundle.component(role).manifest.model["config"]["text_tokens"])
            ids = torch.randint(4, 19, (2, tokens), generator=torch.Generator().manual_seed(1))
            ids[:, -3:] = 1
            for asked in ({}, {"output_hidden_states": True}):
                same(part.original(ids, **asked), part(ids, **asked))
                wanted = part.original(ids, return_dict=False, use_cache=False, **asked)
                pairs = zip(part(ids, return_dict=False, **asked), wanted, strict=True)
                assert all(type(a) is type(b) or "<no " in repr(a) for a, b in pairs)


@pytest.mark.parametrize("name", ["dit", "sana"])
@torch.no_grad()
def test_pictures_are_encoded_as_the_autoencoder_does_it(name: str, tmp_path: Path, stage_cache: Path) -> None:
    pipe, bundle = built(name, tmp_path, parts=("vae", "vae_encoder"))
    image = torch.rand(2, 3, *2 * [pipe.transformer.config.sample_size * 2], generator=torch.Generator().manual_seed(1))
    wanted = pipe.vae.encode(image * 2 - 1)
    with attach(pipe, bundle, components="vae"):
        made = pipe.vae.encode(image * 2 - 1)
    assert type(made) is type(wanted)
    for ours, theirs in zip(*(_latents(each) for each in (made, wanted)), strict=True):
        assert (compare(theirs.numpy(), ours.numpy()).snr_db or 0) >= GOOD_DB["fp32"]


def _latents(made: Any) -> list[torch.Tensor]:
    """All that there is to see of them: the likeliest, and one drawn."""
    if hasattr(made, "latent"):
        return [made.latent]
    return [made.latent_dist.mode(), made.latent_dist.sample(torch.Generator().manual_seed(2))]


@torch.no_grad()
def same(wanted: Any, made: Any) -> None:
    assert type(made) is type(wanted)
    compared = 0
    for field, value in wanted.items():
        if field in ("past_key_values", "cache"):
            continue
        pairs = zip(value, made[field], strict=True) if isinstance(value, tuple) else [(value, made[field])]
        for theirs, ours in pairs:
            if "<no " not in repr(ours):
                compared += 1
                assert (compare(theirs.detach().numpy(), ours.numpy()).snr_db or 0) > 90
    assert compared
