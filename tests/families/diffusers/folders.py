"""Tiny diffusers transformers, one per class: saved by diffusers itself, run by it, and loaded by us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dsr_export.families import FamilyRequest
from dsr_export.families.diffusers.files import TransformerFolder, open_folder
from dsr_export.families.diffusers.models import load, load_folder
from dsr_export.subject import Subject

FLUX, SD3, DIT, PIXART = (f"{name}Transformer2DModel" for name in ("Flux", "SD3", "DiT", "PixArt"))
SMALL = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4}
TEXT = {"joint_attention_dim": 24, "pooled_projection_dim": 20}
CONFIGS: dict[str, dict[str, Any]] = {
    "DiTTransformer2DModel": {**SMALL, "sample_size": 8, "num_embeds_ada_norm": 10, "out_channels": 8},
    "PixArtTransformer2DModel": {
        **SMALL,
        "attention_head_dim": 24,  # with sizes, the hidden size is a multiple of 3
        "sample_size": 8,
        "cross_attention_dim": 48,
        "caption_channels": 24,
        "use_additional_conditions": True,
        "interpolation_scale": 2,
    },
    "SD3Transformer2DModel": {  # as 3.5: dual attention and normalised queries and keys
        **SMALL,
        **TEXT,
        "sample_size": 8,
        "out_channels": 4,
        "caption_projection_dim": 32,
        "pos_embed_max_size": 6,
        "dual_attention_layers": [0],
        "qk_norm": "rms_norm",
    },
    "FluxTransformer2DModel": {
        **SMALL,
        **TEXT,
        "num_single_layers": 1,
        "axes_dims_rope": [4, 6, 6],
        "guidance_embeds": True,
    },
}
"""Class -> constructor arguments."""
OPTIONS = {
    "DiTTransformer2DModel": {},
    "PixArtTransformer2DModel": {"text_tokens": 5},
    "SD3Transformer2DModel": {"text_tokens": 5},
    "FluxTransformer2DModel": {"text_tokens": 5, "latent_height": 8, "latent_width": 6},
}
"""Class -> what its config doesn't say."""


def original(class_name: str) -> Any:
    """diffusers' own model with seeded weights; skips the test where the package is missing."""
    diffusers = pytest.importorskip("diffusers", reason="the models extra is not installed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(diffusers, class_name)(**CONFIGS[class_name]).eval()


def saved(class_name: str, folder: Path, **options: Any) -> Path:
    """A folder that `save_pretrained` wrote."""
    original(class_name).save_pretrained(folder, **options)
    return folder


def saved_subject(class_name: str, folder: Path, **options: Any) -> Subject:
    sizes = {**OPTIONS[class_name], **options.pop("options", {})}
    return from_folder(open_folder(saved(class_name, folder)), options=sizes, **options)


def from_folder(folder: TransformerFolder, **asked: Any) -> Subject:
    return load_folder(folder, FamilyRequest(model=folder.name, **asked))


def run_example(subject: Subject, batch: int = 2) -> tuple[dict[str, Tensor], np.ndarray]:
    inputs = subject.example(batch, seed=1)
    with subject.reference() as runner:
        return {name: torch.from_numpy(value) for name, value in inputs.items()}, runner.infer(inputs)["out"]


@torch.no_grad()
def expected_output(class_name: str, inputs: dict[str, Tensor]) -> np.ndarray:
    """diffusers' own output."""
    model = original(class_name)
    if class_name == DIT:
        called = {"timestep": inputs["t"], "class_labels": inputs["y"], "hidden_states": inputs["x"]}
        return model(**called).sample.numpy()
    called = dict(inputs)
    if class_name == PIXART:
        called["added_cond_kwargs"] = {name: called.pop(name) for name in ("resolution", "aspect_ratio")}
    if class_name == FLUX:
        rows, columns = (axis.flatten() for axis in torch.meshgrid(torch.arange(4), torch.arange(3), indexing="ij"))
        called["img_ids"] = torch.stack([torch.zeros(12), rows, columns], dim=1)
        called["txt_ids"] = torch.zeros(5, 3)
    return model(**called).sample.numpy()


def random_subject(
    name: str, *, seed: int = 0, registers: int | None = None, replace: Any = None, **config: Any
) -> Subject:
    pytest.importorskip("diffusers", reason="the models extra is not installed")
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
    if name == "flux":
        sizes |= {"num_single_layers": 1, "latent_height": 4, "latent_width": 4, "text_tokens": 5}
        sizes |= {"joint_attention_dim": 24, "pooled_projection_dim": 20, "in_channels": 16}
    else:
        sizes["sample_size"] = 8
    if name == "sd3":
        sizes |= {"joint_attention_dim": 24, "pooled_projection_dim": 20, "pos_embed_max_size": 6}
    asked = {"random_weights": seed, "registers": registers, "replace": replace}
    return load(FamilyRequest(model=name, **asked, options={**sizes, **config}))
