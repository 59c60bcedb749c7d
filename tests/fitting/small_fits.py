"""A tiny model with outlier tokens, and what is asked of `fit` for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from dsr_export.config import ModelRequest
from dsr_export.families import load_subject
from dsr_export.fitting.request import FitOptions
from tests.families.tiny_sizes import REQUIRED, SIZES

GATE = """
[[denoiser.replace]]
layers = [1]
rule = "median"
threshold = 3.0
choice = "gate"
registers = 2
"""
BOTH = f"[denoiser]\nregisters = 3\nstart = 1\n{GATE}"


def base(folder: Path) -> ModelRequest:
    """A checkpoint without registers, two of whose four tokens are outliers of 8 and 20 times the usual norm."""
    subject = load_subject("rae-dit", random_weights=0, registers=0, **{**SIZES, "input_size": 8})
    state = {name: value.clone() for name, value in subject.module.state_dict().items()}
    row = state["pos_embed"][0]
    row[3] *= 20
    row[8] *= 50
    save_file(state, folder / "base.safetensors")
    return ModelRequest(model="rae-dit", checkpoint=folder / "base.safetensors", options=REQUIRED)


def latents(folder: Path, **other: Any) -> Path:
    """Twelve latents with labels; `other` arrays take their place."""
    rng = np.random.default_rng(0)
    arrays = {"latents": rng.standard_normal((12, 3, 8, 8)).astype(np.float32), "labels": np.arange(12) % 5}
    np.savez(folder / "data.npz", **{name: value for name, value in {**arrays, **other}.items() if value is not None})
    return folder / "data.npz"


def options(folder: Path, text: str = GATE, **other: Any) -> FitOptions:
    """A few steps; `text` is the declaration."""
    (folder / "dsr.toml").write_text(text, encoding="utf-8")
    asked = {"dsr": folder / "dsr.toml", "out": folder / "made", "steps": 6, "batch": 4, "seed": 3, **other}
    return FitOptions(**asked)


def with_threads(count: int) -> None:
    """For tests that compare bytes."""
    torch.set_num_threads(count)
