"""What users meet has its own message and hint; only what nothing accounts for is called a bug."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsr_export.cli.printing.errors import explained
from dsr_export.errors import ExportError
from dsr_export.readable import LONGEST, printable, readable, shortened
from dsr_export.torch_versions import accepted
from tests.conftest import Cli

TORCH = "[enforce fail at alloc_cpu.cpp:115] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"
NO_MEMORY = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError(TORCH),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("can't start new thread"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: str(error)[:20])
def test_running_out_of_memory_is_said_with_what_helps(error: Exception) -> None:
    wrapped = ExportError("ONNX Runtime cannot load the model: 2", hint="see `dsr-export inspect`")
    wrapped.__cause__ = error
    for each in (error, wrapped):
        message, hint = explained(each)
        assert message.startswith("out of memory")
        assert "--batch" in str(hint)


def test_numpy_and_onnx_runtime_say_it_in_their_own_types() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

    with pytest.raises(MemoryError) as met:
        np.empty(1 << 60, np.uint8)
    assert explained(met.value)[0].startswith("out of memory: Unable to allocate")
    assert explained(RuntimeException("Failed to allocate memory for requested buffer"))[0].startswith("out of memory")


def test_a_message_that_quotes_the_words_is_left_as_it_is() -> None:
    quoting = ExportError("no file is called 'out of memory'", hint="check the path")
    assert explained(quoting) == ("no file is called 'out of memory'", "check the path")


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "nnn"), "File name too long: nnn", "check the path"),
        (OSError(errno.ENOSPC, "No space left", b"x\xff"), "disk full: No space left: x\udcff", "free some space"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files", "ulimit -n"),
        (UnicodeEncodeError("ascii", "日.onnx", 0, 1, "?"), "'日' has no form in ascii", "PYTHONUTF8=1"),
        (RuntimeError("Symlink loop from 'loop'"), "Symlink loop", "check the path"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch.nn"),
            "this needs the package torch",
            f"pip install 'torch{accepted()}'",
        ),
        (
            ModuleNotFoundError("No module named 'other'", name="other"),
            "unexpected ModuleNotFoundError",
            "this is a bug",
        ),
        (ZeroDivisionError("division by zero"), "unexpected ZeroDivisionError", "this is a bug"),
        (RuntimeError("shape mismatch"), "unexpected RuntimeError", "this is a bug"),
    ],
)
def test_each_cause_has_its_message_and_hint(error: Exception, message: str, hint: str) -> None:
    said = explained(error)
    assert message in said[0]
    assert hint in str(said[1])


def test_a_removed_working_folder_is_named(tmp_path: Path) -> None:
    script = "import os; os.rmdir(os.getcwd()); from dsr_export.cli import main; main(['verify', 'a', '--junit', 'j'])"
    (tmp_path / "gone").mkdir()
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path / "gone", env=found, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the working folder does not exist any more\nhint: ")


NAMES = [
    "missing",
    "folder",
    "file",
    "empty",
    "junk",
    "new\nline",
    "n" * 300,
    "x/" * 3000,
    "b\udcff",
    "",
    "/",
    "file/x",
]
READERS = [
    ["inspect", "{}"],
    ["inspect", "{}.onnx"],
    ["verify", "{}"],
    ["run", "{}", "--input", "file", "--output", "o.npz"],
    ["diff", "{}", "folder"],
    ["bench", "{}"],
    ["bench", "{}.onnx"],
    ["sample", "{}"],
    ["compile", "{}", "--target", "trt10"],
    ["build", "{}"],
    ["build", "{}.onnx"],
    ["build", "--config", "{}"],
    ["build", "--model-dir", "{}"],
    ["build", "--checkpoint", "{}"],
    ["build", "--component", "{}"],
    ["diagnose", "{}"],
]


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_no_path_is_called_a_bug(words: list[str], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").write_text("text")
    Path("empty").touch()
    Path("junk").write_bytes(bytes(range(256)))
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    names = [*NAMES, "loop", *(["pipe"] if words[0] != "build" else [])]
    for name in names:
        done = cli(*(word.replace("{}", name) for word in words), *_target(words))
        assert done.code == 1, (name, done)
        assert "this is a bug" not in done.err, (name, done.err)
        assert "error: " in done.err
        assert len(done.err) < LONGEST + 1000


def _target(words: list[str]) -> list[str]:
    return ["--target", "onnxruntime"] if words[0] == "build" else []


def test_what_no_shell_can_give_is_refused(cli: Cli) -> None:
    assert cli("inspect", "a\0b").code == 2


def test_names_and_messages_are_fit_for_pages_and_terminals() -> None:
    assert readable("日\udcff") == "日\\xff"
    assert readable("\udce6\udc97\udca5") == "日"  # as an ASCII locale reads it
    assert readable("\ud800").isascii()
    assert printable("a\x1b[2Jb\x9b\tc\nd") == "a\\x1b[2Jb\\x9b\tc\nd"
    assert shortened("x" * LONGEST) == "x" * LONGEST
    assert len(shortened("x" * 1_000_000)) < LONGEST + 50
