"""Temporary folders of processes that could not tidy up."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dsr_export.storage.disk import this_machine
from dsr_export.storage.leftovers import scratch_folder

_KILLED = """
import os, signal
from dsr_export.storage.leftovers import scratch_folder
with scratch_folder("fit-base") as folder:
    (folder / "half").write_bytes(b"x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def among(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_process_left_goes_with_the_next_folder(among: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED], env={**os.environ, "TMPDIR": str(among)}, check=False)
    assert len(list(among.iterdir())) == 1
    with scratch_folder("fit") as folder:
        assert list(among.iterdir()) == [folder]
    assert not list(among.iterdir())


def test_whatever_else_lies_there_stays(among: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    rows = [(this_machine(), os.getpid()), ("0" * 8, child.pid)]
    kept = [among / f"dsr-fit-{host}-{pid}-{'0' * 16}" for host, pid in rows]
    for path in (*kept, among / "dsr-fit-mine"):
        path.mkdir()
    aimed = tmp_path_factory.mktemp("aimed")
    dead = f"dsr-fit-{this_machine()}-{child.pid}"
    (among / f"{dead}-{'1' * 16}").symlink_to(aimed)
    (among / f"{dead}-{'2' * 16}").write_text("a file")
    (among / f".{dead}-{'3' * 16}.tmp").mkdir()
    with scratch_folder("fit") as folder:
        assert len(list(among.iterdir())) == 7
    assert aimed.is_dir() and not folder.exists()
