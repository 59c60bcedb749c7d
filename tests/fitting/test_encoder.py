"""Registers of an encoder, trained on its own features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from dsr_export.fitting.denoised import VIEWS, denoised, shifted
from dsr_export.fitting.fit import fit
from dsr_export.storage.cache import StageCache
from tests.families.encoders.cases import CASES, saved
from tests.fitting.small_fits import options

WISH = '[encoder]\nkind = "appended"\nregisters = 2\n'


def _request(folder: Path) -> ModelRequest:
    saved(CASES["dinov2"], folder / "model")
    return ModelRequest(model=CASES["dinov2"].family, checkpoint=folder / "model")


def _pictures(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / "pictures" / f"{i}.png")
    return folder / "pictures"


def test_they_are_trained_and_built(tmp_path: Path) -> None:
    request = _request(tmp_path)
    asked = options(tmp_path, WISH, data=str(_pictures(tmp_path)), steps=40, batch=5, rate=0.1)
    fit(request, asked, StageCache(tmp_path / "cache"))
    record = json.loads((asked.out / "fit.json").read_text())
    assert np.mean(record["losses"][-10:]) < np.mean(record["losses"][:10])
    assert "shifted views" in record["objective"]
    loaded = load_subject(request.model, checkpoint=request.checkpoint, dsr=asked.out / "dsr.toml")
    assert loaded.module.appended.shape[1] == 2 and loaded.module.appended.abs().max() > 0


def test_a_view_is_moved_by_whole_patches_and_back(tmp_path: Path) -> None:
    """An encoder that sees each patch alone makes the same features of every view."""

    class Alone(torch.nn.Module):
        grid, patch = (2, 3), (4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.unfold(x, 4, stride=4).transpose(1, 2)

    encoder: Any = Alone()
    x = torch.randn(2, 3, 8, 12)
    assert not torch.equal(shifted(encoder, x, [1, 2]), x)
    torch.testing.assert_close(denoised(encoder, x, torch.Generator().manual_seed(0)), encoder(x))


def test_what_belongs_to_a_place_is_averaged_away() -> None:
    class Placed(torch.nn.Module):
        grid, patch = (4, 4), (1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = torch.zeros(len(x), 16, 1)
            tokens[:, 5] = 1  # an artefact of one place
            return tokens

    made = denoised(Placed(), torch.zeros(64, 1, 4, 4), torch.Generator().manual_seed(1))
    assert made.max() <= 3 / VIEWS and made.sum(dim=1).allclose(torch.ones(64, 1))


def test_an_encoder_needs_pictures(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no pictures are given"):
        fit(_request(tmp_path), options(tmp_path, WISH), StageCache(tmp_path / "cache"))


def test_replacement_is_for_denoisers(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="declares"):
        fit(_request(tmp_path), options(tmp_path, data=str(_pictures(tmp_path))), StageCache(tmp_path / "cache"))
