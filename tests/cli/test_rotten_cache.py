"""Damage between two builds: the next build is right and says what it made again, whatever byte was hit."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from dsr_export import cache_entry
from dsr_export.config import ExportConfig
from dsr_export.pipeline import export
from dsr_export.progress import Silent
from dsr_export.verify import verify

FLIPS = int(os.environ.get("DSR_EXPORT_FLIPS", "2"))


class Notes(Silent):
    """Keeps what a build says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def warm_cache(stage_cache: Path, digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what a build has left in the cache; hits check graphs and plans by size alone."""
    copy, began = tmp_path / "cache", time.time() - 1
    export(ExportConfig(precision="fp16", out=tmp_path / "found.dsr"))
    for entry in stage_cache.glob(f"[a-z]*/{'[0-9a-f]' * 64}"):
        if entry.stat().st_mtime > began:
            shutil.copytree(entry, copy / entry.parent.name / entry.name)
    monkeypatch.setenv("DSR_EXPORT_CACHE", str(copy))
    monkeypatch.setattr(cache_entry, "LARGEST_HASHED", 1 << 20)
    export(ExportConfig(precision="fp16", out=tmp_path / "warm.dsr"))  # its hits alone are what is damaged below
    return copy


def used_files(cache: Path, out: Path) -> list[Path]:
    """The files of the entries that a build into `out` used, which is the latest."""
    began = out.stat().st_mtime - 60
    entries = [entry for stage in cache.iterdir() if stage.name != "locks" for entry in stage.iterdir()]
    return sorted(
        path for entry in entries if entry.stat().st_mtime > began for path in entry.rglob("*") if path.is_file()
    )


def flip(path: Path, place: float) -> None:
    """Another byte in the file alone, and not in what shares its disk blocks."""
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << int(place * 1e6) % 8
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(FLIPS))
def test_a_flipped_byte_anywhere_in_the_cache_never_ships(
    warm_cache: Path, digits_bundle: Path, tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    files = used_files(warm_cache, tmp_path / "warm.dsr")
    flip(files[rng.integers(len(files))], rng.random())
    notes = Notes()
    built = export(ExportConfig(precision="fp16", out=tmp_path / "again.dsr"), reporter=notes)
    assert verify(built.path)["passed"]
    model = (built.path / "model.onnx").read_bytes()
    assert model == (digits_bundle / "model.onnx").read_bytes()


def test_the_typed_graph_of_a_cached_verdict_is_made_again(
    warm_cache: Path, digits_bundle: Path, tmp_path: Path
) -> None:
    """Its size is right, and parity is a hit: only the copy into the bundle reads it."""
    for path in (warm_cache / "type").glob("*/model.onnx"):
        flip(path, 0.5)
    notes = Notes()
    built = export(ExportConfig(precision="fp16", out=tmp_path / "again.dsr"), reporter=notes)
    assert (built.path / "model.onnx").read_bytes() == (digits_bundle / "model.onnx").read_bytes()
    assert [line for line in notes.lines if "damaged in the cache and is made again" in line]


def test_a_stage_that_runs_does_not_read_damaged_weights(warm_cache: Path, tmp_path: Path) -> None:
    """Another precision is typed anew from cached graphs, which a hit checks by size alone."""
    shutil.rmtree(warm_cache / "type")  # an earlier test of this process may have left this precision there
    for path in (warm_cache / "optimize").glob("*/model.onnx"):
        flip(path, 0.5)
    notes = Notes()
    built = export(ExportConfig(precision="fp32", targets=("onnxruntime",), out=tmp_path / "again.dsr"), reporter=notes)
    assert verify(built.path)["passed"]
    assert [line for line in notes.lines if "/optimize/" in line and "is made again" in line]
