"""One small random subject per family: what the contract suite runs over. A family adds one line to `TINY`."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from dsr_export.families import load_subject
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject

TEXT = {"joint_attention_dim": 24, "pooled_projection_dim": 20}
FLUX = {**TEXT, "latent_height": 8, "latent_width": 6}
MEDIAN = ReplaceSpec(layers=(1, 2), rule="median", threshold=1.3, rounds=2)


def rae_dit_dh() -> Subject:
    """Registers from block 1 of the trunk, replacement behind its blocks 1 and 2, a head of another width."""
    return load_subject(
        "rae-dit-dh",
        random_weights=0,
        registers=4,
        replace=[MEDIAN],
        input_size=4,
        in_channels=8,
        hidden_size=(48, 64),
        depth=(3, 2),
        num_heads=(4, 2),
        num_classes=5,
        register_start=1,
    )


def rae_dit() -> Subject:
    """Registers from block 1, replacement at blocks 1 and 2."""
    return load_subject(
        "rae-dit",
        random_weights=0,
        registers=4,
        replace=[MEDIAN],
        input_size=4,
        in_channels=8,
        hidden_size=48,
        depth=3,
        num_heads=4,
        num_classes=5,
        register_start=1,
    )


def by_patch(name: str, **options: int) -> Subject:
    """DiT and SiT with four registers from block 1, and replacement by them; JiT's own cannot replace, so it clips."""
    choice = "clip" if name == "jit" else "nearest"
    group = dataclasses.replace(MEDIAN, choice=choice, layers=(0, 1))
    return load_subject(
        name,
        random_weights=0,
        registers=4,
        replace=[group],
        patch_size=2,
        hidden_size=48,
        depth=3,
        num_heads=4,
        num_classes=5,
        register_start=1,
        **options,
    )


def siglip() -> Subject:
    """Two test-time registers, neurons in layers 0 and 2."""
    pytest.importorskip("transformers", reason="the models extra is not installed")
    with tempfile.TemporaryDirectory() as folder:
        dsr = Path(folder, "dsr.toml")
        dsr.write_text('[encoder]\nkind = "test-time"\nregisters = 2\nscale = [1.0, 0.5]\nneurons = "n.json"\n')
        Path(folder, "n.json").write_text(json.dumps({"0": [3, 61, 3], "2": [7]}))
        return load_subject(
            "siglip",
            random_weights=0,
            dsr=dsr,
            image_size=32,
            patch_size=8,
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
        )


def dinov2_with_registers() -> Subject:
    """CLS and four trained registers in front."""
    pytest.importorskip("transformers", reason="the models extra is not installed")
    return load_subject(
        "dinov2-with-registers",
        random_weights=0,
        image_size=32,
        patch_size=8,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        mlp_ratio=2,
    )


def rae_decoder() -> Subject:
    """Nine patches of 4x4 pixels."""
    return load_subject(
        "rae-decoder",
        random_weights=0,
        hidden_size=8,
        latent_size=3,
        patch_size=4,
        decoder_hidden_size=48,
        decoder_num_hidden_layers=3,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
    )


def diffusers_model(name: str, **sizes: int | bool) -> Subject:
    """Two blocks of four heads; three registers before block 1, and replacement behind it."""
    pytest.importorskip("diffusers", reason="the models extra is not installed")
    return load_subject(
        name,
        random_weights=0,
        registers=3,
        register_start=1,
        replace=[dataclasses.replace(MEDIAN, layers=(1,))],
        num_layers=2,
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        **sizes,
    )


TINY: Mapping[str, Callable[[], Subject]] = {
    "rae-dit": rae_dit,
    "rae-dit-dh": rae_dit_dh,
    "dit": partial(by_patch, "dit", input_size=8, in_channels=4),
    "sit": partial(by_patch, "sit", input_size=8, in_channels=4),
    "jit": partial(by_patch, "jit", input_size=8, in_channels=3, bottleneck_dim=8),
    "diffusers-dit": partial(diffusers_model, "diffusers-dit", sample_size=8, num_embeds_ada_norm=10),
    "pixart": partial(diffusers_model, "pixart", sample_size=8, caption_channels=24, text_tokens=5),
    "sd3": partial(diffusers_model, "sd3", sample_size=8, pos_embed_max_size=6, text_tokens=5, **TEXT),
    "flux": partial(diffusers_model, "flux", num_single_layers=2, text_tokens=5, guidance_embeds=True, **FLUX),
    "siglip": siglip,
    "dinov2-with-registers": dinov2_with_registers,
    "rae-decoder": rae_decoder,
}
