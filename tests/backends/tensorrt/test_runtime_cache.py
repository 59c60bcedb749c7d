"""Kernels kept for the next start: beside the bundle, read only where nobody else may write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dsr_export.backends.tensorrt.runner import TensorRTRunner
from dsr_export.backends.tensorrt.runtime_cache import cache_file
from dsr_export.bundle.manifest import BundleTarget
from dsr_export.bundle.reader import Bundle
from tests.backends.tensorrt.engine_stand_in import SPECS, Gpu, stand_in
from tests.backends.tensorrt.test_runner import rows
from tests.pipeline_parts import rewritten


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return stand_in(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edge.dsr.rtx-cache" / "rtx-0123.bin"


def start(path: Path) -> list[str]:
    """What one start says."""
    said: list[str] = []
    with TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS, cache=path, say=said.append) as runner:
        runner.infer(rows(2))
    return said


def test_the_second_start_takes_what_the_first_has_kept(gpu: Gpu, path: Path) -> None:
    (said,) = start(path)
    assert "takes a while on the first start" in said and str(path) in said
    assert path.read_bytes() == b"kernels" and path.stat().st_mode & 0o077 == 0
    assert start(path) == [] and gpu.deserialized == [b"kernels"]


def test_what_another_version_made_is_made_again(gpu: Gpu, path: Path) -> None:
    start(path)
    gpu.cache_blob = b"newer kernels"
    (said,) = start(path)
    assert "another version, GPU or driver" in said and path.read_bytes() == b"newer kernels"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no such modes")
def test_a_file_that_others_may_write_is_left_alone(gpu: Gpu, path: Path) -> None:
    start(path)
    path.chmod(0o666)
    gpu.deserialized.clear()
    gpu.cache_blob = b"newer kernels"
    assert any("left alone" in each for each in start(path))
    assert gpu.deserialized == [] and path.read_bytes() == b"kernels"
    path.unlink()
    path.parent.chmod(0o777)
    assert any("left alone" in each for each in start(path)) and not path.exists()
    path.parent.chmod(0o700)
    path.symlink_to(path.parent.parent / "elsewhere")
    (path.parent.parent / "elsewhere").write_bytes(b"kernels")
    assert any("left alone" in each for each in start(path)) and gpu.deserialized == []
    assert path.is_symlink()


def test_a_folder_that_cannot_be_written_is_no_error(gpu: Gpu, tmp_path: Path) -> None:
    (tmp_path / "edge.dsr.rtx-cache").write_bytes(b"a file")
    said = start(tmp_path / "edge.dsr.rtx-cache" / "rtx.bin")
    assert "could not be kept" in said[-1]


def test_after_a_failure_nothing_is_kept(gpu: Gpu, path: Path) -> None:
    runner = TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS, cache=path)
    runner.infer(rows(2))
    runner.__exit__(ValueError, ValueError("mine"), None)
    assert not path.exists() and gpu.driver.held == {}


def test_it_lies_beside_the_outermost_bundle(pipeline_bundle: Path, tmp_path: Path) -> None:
    engine = BundleTarget(name="rtx", backend="tensorrt_rtx", version="1.7", engine="engines/rtx.plan")
    opened = Bundle.open(pipeline_bundle)
    plans = {"engines/rtx.plan": b"plan"}
    made = Bundle.open(
        rewritten(pipeline_bundle, tmp_path / "p.dsr", plans, targets=(*opened.manifest.targets, engine))
    )
    found = cache_file(made, "engines/rtx.plan")
    assert found.parent == (tmp_path / "p.dsr.rtx-cache").resolve() and found.name.startswith("rtx-")
    inner = made.component("decoder")
    assert cache_file(inner, next(iter(inner.manifest.files))).parent == found.parent
