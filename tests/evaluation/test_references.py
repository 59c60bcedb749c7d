"""What identifies a PyTorch reference in the cache."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from dsr_export.config import ModelRequest
from dsr_export.evaluation.methods import declared_model
from dsr_export.evaluation.references import subject_digest
from dsr_export.families import load
from tests.pipeline_parts import DENOISER

SIZES = {name: value for name, value in DENOISER.items() if name != "register_start"}
INSERTED = '[denoiser]\nregister_file = "r.safetensors"\nstart = 1\n'
SITE = '[[denoiser.replace]]\nlayers = [1]\nrule = "median"\nthreshold = 1.5\nregisters = "r.safetensors"\n'


def _digest(folder: Path, text: str, seed: int) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "dsr.toml").write_text(text)
    rows = torch.randn(4, SIZES["hidden_size"], generator=torch.Generator().manual_seed(seed))
    save_file({"registers": rows}, folder / "r.safetensors")
    request = ModelRequest(model="rae-dit", random_weights=0, dsr=folder / "dsr.toml", options=SIZES)
    return subject_digest(load(declared_model(request)))


def test_registers_of_a_file_count_by_its_content(tmp_path: Path) -> None:
    for i, text in enumerate((INSERTED, SITE)):
        one, other = (_digest(tmp_path / f"{i}", text, seed) for seed in (0, 1))
        assert one != other == _digest(tmp_path / f"{i} elsewhere", text, 1)
    assert _digest(tmp_path / "a", SITE, 0) != _digest(tmp_path / "a", SITE.replace("1.5", "1.6"), 0)
