"""The README's commands do what it says, as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def _run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs one README line with the interpreter's own scripts; what is installed already is not installed again."""
    wanted = command.split("&&")[-1].strip() if command.startswith("pip install") else command
    settings = {**ENVIRONMENT, "DSR_EXPORT_CACHE": os.environ["DSR_EXPORT_CACHE"], **environment}
    return subprocess.run(wanted, shell=True, cwd=folder, env=settings, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (Path(sys.executable).parent / "dsr-export").exists():
        pytest.skip("the package is not installed in this environment")
    return tmp_path_factory.mktemp("readme")


def test_two_commands_come_first() -> None:
    assert BLOCKS[0] == "pip install -c constraints.txt '.[rtx]' && dsr-export build --precision fp16\n"
    assert BLOCKS[1] == "pip install -c constraints.txt '.[rtx,test]' && pytest\n"


def test_the_first_command_builds_the_bundle(folder: Path, digits_bundle: Path) -> None:
    done = _run(BLOCKS[0].strip(), folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "digits.dsr" / "manifest.json").is_file()


def test_the_second_command_runs_the_tests() -> None:
    """On one small file: the whole suite is running already."""
    done = _run(BLOCKS[1].strip(), ROOT, PYTEST_ADDOPTS="tests/test_sampling.py")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize("command", [line for block in BLOCKS[2:] for line in block.splitlines() if line.strip()])
def test_every_other_command_succeeds(command: str, folder: Path) -> None:
    if not (folder / "digits.dsr").exists():
        assert _run(BLOCKS[0].strip(), folder).returncode == 0
    assert shlex.split(command)[0] == "dsr-export"
    done = _run(command, folder)
    assert done.returncode == 0, done.stderr
