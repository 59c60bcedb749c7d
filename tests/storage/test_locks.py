from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dsr_export.errors import ExportError
from dsr_export.storage.locks import exclusive

HOLD = """
import sys
from pathlib import Path
from dsr_export.storage.locks import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSR_EXPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def holder(out: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock of `out` until its input ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_lock_held_here_is_refused_at_once(tmp_path: Path) -> None:
    out = tmp_path / "b.dsr"
    with exclusive(out):
        with pytest.raises(ExportError, match=r"another build is writing to .*b\.dsr") as caught, exclusive(out):
            pytest.fail("two hold one lock")
        assert "--out" in str(caught.value.hint)
    with exclusive(out):
        assert not out.exists()


def test_a_lock_held_by_another_process_is_refused_until_it_dies(tmp_path: Path) -> None:
    out = tmp_path / "b.dsr"
    with holder(out) as child:
        with pytest.raises(ExportError, match="another build"), exclusive(out):
            pytest.fail("two hold one lock")
        child.send_signal(signal.SIGKILL)
        child.wait()
        with exclusive(out):
            pass


def test_names_of_one_folder_share_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    with exclusive(tmp_path / "real" / "b.dsr"):
        for other in (Path("b.dsr"), tmp_path / "link" / "b.dsr", tmp_path / "real" / "x" / ".." / "b.dsr"):
            with pytest.raises(ExportError, match="another build"), exclusive(other):
                pytest.fail("two hold one lock")


def test_other_outputs_are_free(tmp_path: Path, root: Path) -> None:
    with exclusive(tmp_path / "a.dsr"), exclusive(tmp_path / "b.dsr"):
        assert len(list((root / "locks").iterdir())) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, ExportError, OSError])
def test_errors_pass_and_free_the_lock(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error, match="mine"), exclusive(tmp_path / "b.dsr"):
        raise error("mine")
    with exclusive(tmp_path / "b.dsr"):
        pass


def test_nothing_is_left_beside_the_output(tmp_path: Path) -> None:
    with exclusive(tmp_path / "out" / "b.dsr"):
        pass
    assert os.listdir(tmp_path) == ["cache"]  # noqa: PTH208


def test_an_unwritable_cache_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DSR_EXPORT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ExportError, match="cannot write") as caught, exclusive(tmp_path / "b.dsr"):
        pytest.fail("there is no lock")
    assert "DSR_EXPORT_CACHE" in str(caught.value.hint)


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file system that is mounted for reading says it: to root, who may write anywhere else, too."""
    real_mkdir, real_access = Path.mkdir, os.access

    def mkdir(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.is_relative_to(folder) and not path.exists():
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        real_mkdir(path, *args, **kwargs)

    def access(path: Any, mode: int, **kwargs: Any) -> bool:
        return not Path(path).is_relative_to(folder) and real_access(path, mode, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(os, "access", access)


@pytest.mark.parametrize("has_locks", [True, False])
def test_a_cache_that_is_only_read_has_its_locks_elsewhere(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, has_locks: bool
) -> None:
    (root / "locks" if has_locks else root).mkdir(parents=True)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    read_only(root, monkeypatch)
    with exclusive(tmp_path / "b.dsr"):
        with pytest.raises(ExportError, match="another build"), exclusive(tmp_path / "b.dsr"):
            pytest.fail("two hold one lock")
        assert len(list((tmp_path / "temporary").glob("dsr-export-locks-*/*.lock"))) == 1


def test_a_stranger_cannot_lend_the_folder_of_locks(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    read_only(root, monkeypatch)
    with exclusive(tmp_path / "b.dsr"):
        (made,) = (tmp_path / "temporary").iterdir()
    made.rename(tmp_path / "moved")
    made.symlink_to(tmp_path / "moved")
    with pytest.raises(ExportError, match="belongs to someone else"), exclusive(tmp_path / "b.dsr"):
        pytest.fail("a link was followed")
