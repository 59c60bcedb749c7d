"""Processes that a launcher starts train together what one alone trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dsr_export.errors import ExportError
from dsr_export.fitting.fit import fit
from dsr_export.fitting.processes import Processes, launched
from dsr_export.storage.cache import StageCache
from tests.families.tiny_sizes import REQUIRED
from tests.fitting.small_fits import BOTH, base, latents, options

_HERE = ["--standalone", "--local-addr", "localhost"]


def test_rows_are_shared_evenly() -> None:
    shares = [Processes(rank=rank, count=3).share(12) for rank in range(3)]
    assert [row for share in shares for row in range(12)[share]] == list(range(12))
    with pytest.raises(ExportError, match="--batch 4 cannot be shared by 3 processes") as caught:
        Processes(count=3).share(4)
    assert "--batch 6" in str(caught.value.hint)


def test_one_process_needs_no_launcher() -> None:
    with launched("cpu") as together:
        assert (together.leads, together.share(5), together.told("x")) == (True, slice(0, 5), "x")


def test_a_launcher_without_its_package_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ExportError, match="'accelerate', which is missing"):
        fit(base(tmp_path), options(tmp_path, data=str(latents(tmp_path))), StageCache(tmp_path / "cache"))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("set_only", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "abc", "RANK": "0", "MASTER_ADDR": "a"}])
def test_a_scheduler_that_starts_nothing_together_is_no_launcher(
    set_only: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in set_only.items():
        monkeypatch.setenv(name, value)
    with launched("cpu") as together:
        assert together.count == 1


def test_a_peer_that_ended_is_said() -> None:
    def gone(_: Any) -> Any:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error")

    together = Processes(count=2, reduced=gone, shared=gone)
    for call in (lambda: together.mean(torch.zeros(1)), lambda: together.told(1)):
        with pytest.raises(ExportError, match="another process of this training ended"):
            call()


def test_the_leading_process_works_first() -> None:
    order: list[str] = []
    for rank in (0, 1):
        together = Processes(rank=rank, count=2, shared=lambda values: order.append("told"))
        assert together.in_turn(lambda rank=rank: order.append(f"work {rank}") or rank) == rank  # type: ignore[misc]
    assert order == ["work 0", "told", "told", "work 1"]


@pytest.mark.slow
@pytest.mark.parametrize("starts", [1, 2])
def test_two_processes_come_to_what_one_alone_comes_to(starts: int, tmp_path: Path) -> None:
    """But for rounding: slopes are added up in another order. A second start finds what was trained."""
    request, asked = base(tmp_path), options(tmp_path, BOTH, data=str(latents(tmp_path)))
    fit(request, asked, StageCache(tmp_path / "alone"))
    alone, losses = load_file(asked.out / "site-1.safetensors"), _losses(asked.out)
    for _ in range(starts):
        done = _launch(tmp_path, "--checkpoint", request.checkpoint, *_options(asked.data))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("next: dsr-export build") == 1  # the first one answers for both
        together = load_file(tmp_path / "two" / "site-1.safetensors")
        np.testing.assert_allclose(_losses(tmp_path / "two"), losses, rtol=1e-4)
        for name, value in alone.items():
            np.testing.assert_allclose(together[name], value, atol=2e-3)
    assert json.loads((tmp_path / "two" / "fit.json").read_text())["processes"] == 2


def _losses(folder: Path) -> Any:
    return json.loads((folder / "fit.json").read_text())["losses"]


def _options(data: str) -> list[str]:
    return ["--data", data, "--steps", "6", "--batch", "4", "--seed", "3"]


def _launch(folder: Path, *given: Any) -> subprocess.CompletedProcess[str]:
    sizes = [word for name, value in REQUIRED.items() for word in ("--option", f"{name}={value}")]
    launcher = [sys.executable, "-m", "torch.distributed.run", *_HERE, "--nproc-per-node", "2"]
    own = ["-m", "dsr_export", "fit", "rae-dit", *map(str, given), *sizes]
    files = ["--dsr", str(folder / "dsr.toml"), "--out", str(folder / "two")]
    environment = {**os.environ, "DSR_EXPORT_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
    return subprocess.run([*launcher, *own, *files], capture_output=True, text=True, env=environment, timeout=300)
