from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsr_export.errors import ExportError
from dsr_export.locks import exclusive

HOLD = """
import sys
from pathlib import Path
from dsr_export.locks import exclusive
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
