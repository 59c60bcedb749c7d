"""stdout holds the answer and nothing else, whatever prints; libraries' warnings are for `--debug`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsr_export.reports.plain_json import plain
from tests.conftest import Cli
from tests.device_nodes import device_node

NOISY = """
import atexit, ctypes, json, logging, os, subprocess, sys, types, warnings
import click
import dsr_export.cli as cli
from dsr_export.cli.process.streams import Command, answer_json

@click.command("noisy", cls=Command)
def command():
    print("from Python")
    if sys.__stdout__ is not None:
        sys.__stdout__.write("from the first stdout\\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"from C")
    os.write(1, b"from the descriptor\\n")
    subprocess.run(["echo", "from a child"])
    warnings.warn("a warning")
    logging.getLogger("library").warning("a log message")
    atexit.register(lambda: (print("from the end"), libc.puts(b"from the end of C")))
    answer_json({"figure": float("nan"), "other": [1.5, float("inf")]})

sys.modules["dsr_export.cli.noisy"] = types.SimpleNamespace(command=command)
cli.COMMANDS["noisy"] = "Prints."
cli.main()
"""
SPOKEN = ("from Python", "from C", "from the descriptor", "from a child", "from the end", "from the end of C")


def _run(*arguments: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NOISY, "noisy", *arguments]
    return subprocess.run(command, text=True, check=False, **{"stdout": -1, "stderr": -1} | streams)


def test_stdout_is_one_json_object_whatever_prints() -> None:
    done = _run()
    assert (done.returncode, done.stdout) == (0, '{"figure": null, "other": [1.5, null]}\n')
    assert [text for text in SPOKEN if text not in done.stderr.splitlines()] == []
    assert "a warning" not in done.stderr
    assert "a log message" not in done.stderr


def test_warnings_and_messages_of_libraries_are_shown_for_debugging() -> None:
    done = _run("--debug")
    assert json.loads(done.stdout)["figure"] is None
    assert "a warning" in done.stderr
    assert "a log message" in done.stderr


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_fail(closed: str) -> None:
    shell = f'exec "$0" -c "$1" noisy {closed}'
    done = subprocess.run(["sh", "-c", shell, sys.executable, NOISY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if closed == "2>&-":
        assert json.loads(done.stdout)["other"] == [1.5, None]
    else:
        assert done.stdout == ""


def test_an_answer_that_nobody_reads_is_said_to_nobody() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" noisy 2>&1 >&3 | cat', sys.executable, NOISY],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=_third_is_a_broken_pipe,
        close_fds=False,
    )
    assert "Traceback" not in done.stdout
    assert "Broken pipe" not in done.stdout


def _third_is_a_broken_pipe() -> None:
    reader, writer = os.pipe()
    os.dup2(writer, 3)
    os.close(reader)


def _dsr_export(*words: str | bytes, **given: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "dsr_export", *words]
    return subprocess.run(command, check=False, **{"stdout": -1, "stderr": -1} | given)


@pytest.mark.parametrize("words", [["models"], ["models", "--json"], ["--help"], ["models", "--help"], ["--version"]])
def test_a_full_stdout_is_an_error_of_its_own(words: list[str], tmp_path: Path) -> None:
    with device_node(tmp_path / "full", "full").open("wb") as full:
        done = _dsr_export(*words, stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"error: can't write to stdout: No space left on device\n"


REMARKS = """
import sys, types
import click
import dsr_export.cli as cli
from dsr_export.cli.process.streams import Command, answer
from dsr_export.progress import reporter

@click.command("remarks", cls=Command)
def command():
    reporter().note("a remark")
    click.echo("another", err=True)
    print("a third")
    answer("the answer")

sys.modules["dsr_export.cli.remarks"] = types.SimpleNamespace(command=command)
cli.COMMANDS["remarks"] = "Remarks."
cli.main()
"""


def test_a_full_stderr_changes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REMARKS, "remarks"]
    with device_node(tmp_path / "full", "full").open("wb") as full:
        done = subprocess.run(command, stdout=-1, stderr=full, check=False)
    assert (done.returncode, done.stdout) == (0, b"the answer\n")


ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}


def test_any_name_is_read_and_printed_in_any_locale(tmp_path: Path) -> None:
    import onnx
    from onnx.helper import make_graph, make_model, make_node, make_tensor_value_info

    value = [make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    model = make_model(make_graph([make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:]))
    name = "日".encode() + b"\xff.onnx"
    Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(model.SerializeToString())
    for locale in (ASCII, {"LC_ALL": "C.UTF-8"}):
        environment = {**os.environ, **locale, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = _dsr_export("inspect", name, "--json", cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["onnx"] == "日\\xff.onnx"
        shown = _dsr_export("inspect", name, cwd=tmp_path, env=environment)
        printed = "日" if locale is not ASCII else "\\u65e5"
        assert shown.stdout.decode().startswith(f"onnx: {printed}\\xff.onnx\n")
        missing = _dsr_export("inspect", b"no" + name, cwd=tmp_path, env=environment)
        assert missing.returncode == 1
        assert missing.stderr.decode().startswith(f"error: no{printed}\\xff.onnx does not exist\n")


@pytest.mark.parametrize("command", [["doctor"], ["models"]])
def test_within_another_process_its_streams_are_its_own_again(command: list[str], cli: Cli) -> None:
    before = sys.stdout
    json.loads(cli(*command, "--json").out)
    assert sys.stdout is before


def test_numbers_become_plain() -> None:
    import numpy as np

    made = plain({"a": np.float32(np.inf), 1: (np.int64(2), float("nan"), True, None, "x"), "b": np.bool_(True)})
    assert made == {"a": None, "1": [2, None, True, None, "x"], "b": True}
    json.dumps(made, allow_nan=False)
