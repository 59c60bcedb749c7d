"""Damage between two builds: the next build is right and says what it made again, whatever byte was hit."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dsr_export.config import ExportConfig
from dsr_export.pipeline import export
from dsr_export.progress import Silent
from dsr_export.storage import cache_entry
from dsr_export.verification.verify import verify

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
    return copy


@dataclass(frozen=True)
class Built:
    """A finished build of a model that takes a second: what it left in a cache of its own, and its graph."""

    cache: Path
    graph: bytes


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("wide")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSR_EXPORT_CACHE", str(folder / "cache"))
        bundle = export(wide_layer(folder / "warm.dsr"))
    return Built(folder / "cache", (bundle.path / "model.onnx").read_bytes())


def wide_layer(out: Path) -> ExportConfig:
    return ExportConfig(model="tests.cli.wide_layer:make", precision="fp16", out=out)


def flip(path: Path, place: float) -> None:
    """Another byte in the file alone, and not in what shares its disk blocks."""
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << int(place * 1e6) % 8
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(FLIPS))
def test_a_flipped_byte_anywhere_in_the_cache_never_ships(
    built: Built, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two in three, the graphs and golden vectors are so large that a hit checks them by size alone."""
    monkeypatch.setenv("DSR_EXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache_entry, "LARGEST_HASHED", 1 << 19 if seed % 3 else 64 << 20)
    shutil.copytree(built.cache, tmp_path / "cache")
    rng, notes = np.random.default_rng(seed), Notes()
    files = sorted(path for path in (tmp_path / "cache").glob("*/*/**/*") if path.is_file())
    flip(files[rng.integers(len(files))], rng.random())
    again = export(wide_layer(tmp_path / "again.dsr"), reporter=notes)
    assert verify(again.path)["passed"]
    assert (again.path / "model.onnx").read_bytes() == built.graph


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
