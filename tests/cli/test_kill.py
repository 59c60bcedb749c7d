"""A build that is killed at any moment: no half bundle appears, and the same command ends well afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dsr_export.bundle.reader import Bundle

KILLS = int(os.environ.get("DSR_EXPORT_KILLS", "3"))
COMMAND = [sys.executable, "-m", "dsr_export", "build", "digits", "--target", "onnxruntime"]
OPTIONS = ["--trajectory-steps", "3", "--batch", "1,1,2"]


def _start(out: Path, cache: Path) -> subprocess.Popen[str]:
    command = [*COMMAND, *OPTIONS, "--out", str(out), "--json"]
    environment = {**os.environ, "DSR_EXPORT_CACHE": str(cache)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _kill_after(process: subprocess.Popen[str], seconds: float) -> bool:
    """Whether it was still running then."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return process.returncode == -signal.SIGKILL


def _finished(out: Path, cache: Path) -> dict[str, Any]:
    process = _start(out, cache)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    report: dict[str, Any] = json.loads(printed)
    return report


def _complete_entries(cache: Path) -> set[str]:
    return {record.parent.parent.name for record in cache.glob("*/*/.stage.json")}


def _check_whole_or_absent(out: Path) -> None:
    if out.exists():
        assert Bundle.open(out).report()["passed"] is True


def _forget_from(stages: list[dict[str, Any]], first: int, cache: Path) -> float:
    """Drops the entries of these stages on; returns the seconds they took."""
    for stage in stages[first:]:
        shutil.rmtree(cache / stage["name"], ignore_errors=True)
    return float(sum(stage["seconds"] for stage in stages[first:]))


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_half_done(tmp_path: Path) -> None:
    """Any stage may be the first that has to be built, and so the one that is killed: the first takes most of the time.

    The last place in the list is a build that has everything but the bundle itself to write.
    """
    out, cache, rng, killed = tmp_path / "out" / "b.dsr", tmp_path / "cache", random.Random(0), 0
    stages = _finished(out, cache)["stages"]
    began = time.monotonic()
    _finished(out, cache)
    startup = time.monotonic() - began
    for number in range(KILLS):
        shutil.rmtree(out)
        seconds = _forget_from(stages, rng.randrange(len(stages) + 1) if number else 0, cache)
        killed += _kill_after(_start(out, cache), rng.uniform(0, startup + seconds))
        _check_whole_or_absent(out)
        kept, complete = _complete_entries(cache), out.exists()
        again = _finished(out, cache)["stages"]
        if not complete:  # a bundle that was just in time is up to date: its report is that of the killed build
            assert {stage["name"] for stage in again if stage["cached"]} >= kept
        assert Bundle.open(out).report()["passed"] is True
        assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert killed > KILLS // 3
    shutil.rmtree(cache / stages[-1]["name"])
    _finished(tmp_path / "out" / "last.dsr", cache)  # a stage that is built sweeps up what the kills left
    assert not list(cache.glob(".*.tmp"))
