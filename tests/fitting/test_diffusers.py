"""Registers for a diffusers transformer, trained by distillation on its inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsr_export.config import ModelRequest
from dsr_export.fitting.fit import fit
from dsr_export.sources import load_subject
from dsr_export.storage.cache import StageCache
from tests.families.diffusers.general.tiny import TINY, saved
from tests.fitting.small_fits import GATE, options

pytest.importorskip("diffusers", reason="the models extra is not installed")

SITE = GATE.replace("[1]", "[0]").replace("3.0", "1.1")
BOTH = f"[denoiser]\nregisters = 3\nstart = 0\n{SITE}"
RARE = pytest.param("QwenImageTransformer2DModel", BOTH, 2, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "text", "files"), [("SanaTransformer2DModel", SITE, 1), RARE])
def test_what_is_trained_is_what_is_loaded(name: str, text: str, files: int, tmp_path: Path) -> None:
    """The first is a class without an adapter of its own, whose blocks and widths are found by running it."""
    saved(name, tmp_path / "model")
    request: dict[str, Any] = {"model_dir": tmp_path / "model", "options": TINY[name].options}
    subject = load_subject(model_dir=tmp_path / "model", **TINY[name].options)
    np.savez(tmp_path / "inputs.npz", **subject.example(4, seed=0))  # type: ignore[arg-type]
    asked = options(tmp_path, text, data=str(tmp_path / "inputs.npz"), steps=25, rate=0.05)
    fit(ModelRequest(**request), asked, StageCache(tmp_path / "cache"))
    record = json.loads((asked.out / "fit.json").read_text())
    assert len(record["files"]) == files and "on the calls given" in record["objective"]
    assert np.mean(record["losses"][-8:]) < np.mean(record["losses"][:3])
    made = load_subject(model_dir=tmp_path / "model", dsr=asked.out / "dsr.toml", **TINY[name].options)
    assert made.dsr.denoiser.replacement_sites == text.count("layers") and made.dsr.denoiser.replace[0].choice == "gate"
