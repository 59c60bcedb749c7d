"""A signal ends the command line whatever it is doing, and what it had half done is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

LONG = 300  # seconds: no test waits for this, a process that does not end is a failure
BUSY = {
    "swallowing": """
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
""",
    "deleting": """
class Slow:
    def __del__(self):
        while True:
            pass
Slow()
""",
    "called back from C": """
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def compare(a, b):
    while True:
        pass
ctypes.CDLL(None).qsort(ctypes.create_string_buffer(2), 2, 1, compare)
""",
    "in C": """
mutex = ctypes.create_string_buffer(128)
ctypes.CDLL(None).pthread_mutex_lock(mutex)
ctypes.CDLL(None).pthread_mutex_lock(mutex)
""",
    "printing": """
while True:
    print("busy", file=sys.stderr)
""",
}
LOCKED = BUSY["in C"].replace("CDLL", "PyDLL")  # keeps Python's lock, so that no Python code runs any more
SCRIPT = """
import ctypes, sys
from pathlib import Path
from dsr_export.cli.process.interrupts import end_on_signals
from dsr_export.storage.leftovers import undone, scratch_folder

end_on_signals()
place = Path(sys.argv[1])
old, new = place / "old", place / "new"
with undone(lambda: old.exists() and old.rename(new)), scratch_folder("test") as scratch:
    (scratch / "half").write_text("x")
    (place / "scratch").write_text(str(scratch))
    old.write_text("kept")
    print("ready", flush=True)
"""
Start = Callable[[str], "subprocess.Popen[str]"]


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Runs code between what has to be undone; returns once it has begun. SIGINT is ignored, as in the background."""

    def run(code: str) -> subprocess.Popen[str]:
        text = SCRIPT + "".join(f"    {line}\n" for line in code.strip().splitlines())
        command = [sys.executable, "-c", text, str(tmp_path)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=_ignore_interrupts)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    return run


def _said(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=LONG)[1]
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("busy", BUSY)
def test_one_signal_ends_it_and_everything_is_undone(busy: str, number: int, start: Start, tmp_path: Path) -> None:
    process = start(BUSY[busy])
    process.send_signal(number)
    said = _said(process)
    assert process.returncode == 130
    assert "error: interrupted; nothing half-written is left\nhint: " in said
    assert "Traceback" not in said
    assert (tmp_path / "new").read_text() == "kept"
    assert not Path((tmp_path / "scratch").read_text()).exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the system's own action to come back")
def test_a_second_signal_ends_what_never_returns_to_python(start: Start) -> None:
    process = start(LOCKED)
    state = Path(f"/proc/{process.pid}/task/{process.pid}/stat")
    while state.read_text().rsplit(")", 1)[1].split()[0] != "S":  # until it waits for the mutex
        pass
    process.send_signal(signal.SIGINT)
    while process.poll() is None:  # two that arrive at once are one
        process.send_signal(signal.SIGINT)
    _said(process)
    assert process.returncode == -signal.SIGINT


def test_undoing_goes_on_where_one_step_fails_and_may_happen_twice() -> None:
    from dsr_export.storage.leftovers import undo_all, undone

    done: list[str] = []

    def fails() -> None:
        done.append("fails")
        if len(done) == 1:
            raise OSError

    with undone(lambda: done.append("first")), undone(fails):
        undo_all()
        assert done == ["fails", "first"]
    assert done == ["fails", "first", "fails", "first"]
    undo_all()
    assert len(done) == 4


LATE = """
import os, signal, sys
from dsr_export.cli.process.interrupts import end_on_signals
class Late:
    def __del__(self, kill=os.kill, me=os.getpid(), number=signal.{name}):
        kill(me, number)
end_on_signals()
late = Late()
sys.exit(3)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_the_interpreter_ends_leaves_the_exit_code(name: str) -> None:
    ended = subprocess.run([sys.executable, "-c", LATE.format(name=name)], timeout=60, check=False)
    assert ended.returncode == 3
