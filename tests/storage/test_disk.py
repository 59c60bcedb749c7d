from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsr_export.storage.disk import copy_durably, disk_full, process_alive, write_durably, write_error


def test_copies_are_measured(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 7)
    (tmp_path / "a").write_bytes(data)
    expected = (hashlib.sha256(data).hexdigest(), len(data))
    assert copy_durably(tmp_path / "a", tmp_path / "b") == expected
    assert write_durably(data, tmp_path / "c") == expected
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes() == data


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_durably(b"new", tmp_path / "a")
    with pytest.raises(FileExistsError):
        copy_durably(Path(__file__), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_which_processes_are_alive() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    assert process_alive(child.pid)
    child.communicate(b"\n")
    assert not process_alive(child.pid)
    assert process_alive(os.getpid())
    assert process_alive(1)  # another user's, mostly
    assert not process_alive(10**18)


def test_a_full_disk_is_told_from_other_errors(tmp_path: Path) -> None:
    full = write_error(OSError(errno.ENOSPC, "x"), tmp_path / "b", needed=5_000_001, hint="h")
    assert full.message.startswith(f"disk full writing {tmp_path / 'b'}: needs 6 MB, ")
    other = write_error(PermissionError(errno.EACCES, "Permission denied", "f"), tmp_path / "b", hint="h")
    assert other.message == f"cannot write {tmp_path / 'b'}: [Errno 13] Permission denied: 'f'"
    assert (full.hint, other.hint) == ("h", "h")


def test_free_space_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: Path) -> int:
        raise OSError(errno.EIO, "x")

    monkeypatch.setattr("dsr_export.storage.disk.free_bytes", unknown)
    assert disk_full(Path("b"), needed=1, hint="h").message == "disk full writing b: needs 1 MB, an unknown amount free"


def test_a_disk_without_inodes_is_not_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs(tmp_path)
    none_left = os.statvfs_result((*found[:5], 1000, 0, 0, *found[8:]))
    monkeypatch.setattr(os, "statvfs", lambda _: none_left)
    error = write_error(OSError(errno.ENOSPC, "No space left on device"), tmp_path / "b", hint="h")
    assert error.message == f"no room for another file writing {tmp_path / 'b'}: the disk is out of inodes"
