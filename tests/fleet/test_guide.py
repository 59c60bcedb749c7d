"""Scripts of the guide that no shell runs here: their commands are ones that `build` takes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dsr_export
from dsr_export.declarations.share import Share
from tests.shell_commands import parse

PAGE = (Path(dsr_export.__file__).parent / "docs" / "fleet.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```text\n(.*?)```", PAGE, re.S)


def _block(word: str) -> str:
    (found,) = (block for block in BLOCKS if word in block)
    return str(found)


def test_the_job_array_takes_a_share_for_each_of_its_jobs() -> None:
    script = _block("#SBATCH")
    first, last = map(int, re.findall(r"--array=(\d+)-(\d+)", script)[0])
    (line,) = re.findall(r"^dsr-export (.*)$", script, re.M)
    for number in range(first, last + 1):
        words = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", str(number)))
        parse(words)
        assert Share.parse(words[words.index("--cell") + 1], option="--cell") == Share(number, last)


def test_submitits_jobs_are_shares_of_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda words, check: ran.append(words))
    asked: dict[str, Any] = {}
    executor = SimpleNamespace(
        update_parameters=lambda **given: asked.update(given), map_array=lambda work, shares: [*map(work, shares)]
    )
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=lambda folder: executor))
    exec(compile(_block("submitit"), "fleet.md", "exec"), {})
    shares = [Share.parse(words[words.index("--cell") + 1], option="--cell") for words in ran]
    assert shares == [Share(index, len(shares)) for index in range(1, len(shares) + 1)]
    for words in ran:
        assert words[0] == "dsr-export"
        parse(words[1:])
    assert asked["cpus_per_task"] > 0
