"""The guides do what they say: their commands are run, or parsed where they need a device or files of the reader's."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.test_compile import ABSENT_ON_DEVICES
from tests.conftest import Cli
from tests.guide_files import BROUGHT
from tests.shell_commands import dsr_commands, parse

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "dsr_export" / "docs"
PAGES = sorted(FOLDER.glob("*.md"))
BLOCK = re.compile(r"^```(?P<kind>[a-z]+)(?: (?P<mark>\w+))?\n(?P<body>.*?)^```$", re.M | re.S)
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def blocks(page: Path, kind: str, mark: str | None = None) -> list[str]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [block["body"] for block in found if (block["kind"], block["mark"]) == (kind, mark)]


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    kinds = {(b["kind"], b["mark"]) for page in PAGES for b in BLOCK.finditer(page.read_text(encoding="utf-8"))}
    assert kinds == {
        *(("sh", mark) for mark in (None, "device", "sketch")),
        *((kind, None) for kind in ("python", "toml", "yaml", "text")),
    }


def _run_pytest(line: str, folder: Path) -> None:
    """In a process of its own, with the plugin named: the package may not be installed here, only importable."""
    search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    settings = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": search}
    command = [sys.executable, "-m", "pytest", "-p", "dsr_export.pytest_plugin", *shlex.split(line)[1:]]
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout


def _marked(page: Path) -> Any:
    """These build for two minutes each."""
    return (
        pytest.param(page, marks=pytest.mark.slow)
        if page.stem in ("int8", "low-precision", "from-diffusers", "fit")
        else page
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, of NumPy 2
@pytest.mark.parametrize("page", [_marked(page) for page in PAGES if blocks(page, "sh")], ids=lambda page: page.stem)
def test_commands_succeed_as_written(
    page: Path, cli: Cli, digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in one folder; Python blocks between them too. `digits_bundle` has filled the cache."""
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    monkeypatch.chdir(tmp_path)
    if page.stem in BROUGHT:
        BROUGHT[page.stem](tmp_path)
    names: dict[str, Any] = {"__name__": "docs"}
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["kind"] in ("python", "toml"):
            _written_or_run(block["body"], names)
        elif (block["kind"], block["mark"]) == ("sh", None):
            for line in block["body"].splitlines():
                if line.startswith("pytest "):
                    _run_pytest(line, tmp_path)
                else:
                    words = shlex.split(line)
                    assert words[0] == "dsr-export"
                    done = cli(*words[1:])
                    assert done.code == 0, f"{line}\n{done.err}"


def _written_or_run(body: str, names: dict[str, Any]) -> None:
    """A block that begins with a file name is that file; others are run, and know the names of those before."""
    name = re.match(r"# (\w+\.(?:py|toml))\n", body)
    if name:
        Path(name[1]).write_text(body)
    else:
        exec(compile(body, "<docs>", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_have_valid_options(page: Path) -> None:
    """Those that are run elsewhere too, as some of them only are where all tests are."""
    scripts = [script for mark in (None, "device", "sketch") for script in blocks(page, "sh", mark)]
    scripts += [line for block in blocks(page, "yaml") for line in _scripts(yaml.safe_load(block))]
    commands = [words for script in scripts for words in dsr_commands(script)]
    for words in commands:
        parse(words)
    assert len(commands) >= {"jetson": 8, "ci": 4, "your-own-model": 4, "from-diffusers": 16}.get(page.stem, 0)


def _scripts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [line for item in value.values() for line in _scripts(item)]
    if isinstance(value, list):
        return [line for item in value for line in _scripts(item)]
    return [value] if isinstance(value, str) else []


def test_the_device_packages_are_all_but_those_that_a_device_does_without() -> None:
    """`test_compile` runs without the ones left out."""
    (line,) = re.findall(r"^pip install (click .*)$", (FOLDER / "jetson.md").read_text(), re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[^A-Za-z0-9-]", entry)[0] for entry in project["dependencies"]}
    modules = {"pyyaml": "yaml"}
    left_out = {name for name in needed if modules.get(name, name) in ABSENT_ON_DEVICES}
    extra = {re.split(r"[^A-Za-z0-9-]", entry)[0] for entry in project["optional-dependencies"]["tensorrt"]}
    named = {re.split(r"[^A-Za-z0-9-]", word)[0] for word in line.split()}
    assert named == (needed - left_out - {"tomli", "onnxruntime-gpu"}) | (extra - {"tensorrt"})
    assert f"pip install {line} tokenizers\n" in (FOLDER / "from-diffusers.md").read_text()  # prompts take one more


def _messages() -> list[list[str]]:
    """The literal parts of every string in the sources: `f"a {x} b"` -> `["a ", " b"]`."""
    found = []
    for package in ("dsr_export", "graphs", "calibration"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append([str(v.value) for v in node.values if isinstance(v, ast.Constant)])
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append([node.value])
    return found


def test_troubleshooting_quotes_messages_that_exist() -> None:
    headings = re.findall(r"^### `(.*)`$", (FOLDER / "troubleshooting.md").read_text(encoding="utf-8"), re.M)
    messages = _messages()
    assert len(headings) > 20
    for heading in headings:
        wanted = [part.strip() for part in heading.split("…") if part.strip(" '")]
        assert any(_holds(parts, wanted) for parts in messages), heading


def _holds(parts: list[str], wanted: list[str]) -> bool:
    """Whether `wanted` stand in `parts`, in order."""
    position = 0
    text = "\0".join(parts)
    for piece in wanted:
        position = text.find(piece, position)
        if position < 0:
            return False
        position += len(piece)
    return True


def test_links_lead_somewhere() -> None:
    coming = {FOLDER.parent / "parity" / "README.md"}
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            assert target.exists() or target in coming, f"{page.name}: {link}"


def test_the_readme_names_every_guide() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {page.name for page in PAGES if f"dsr_export/docs/{page.name}" not in readme} <= {"README.md"}


def test_a_guide_that_would_break_is_found() -> None:
    import click

    for line in ("dsr-export verify x.dsr --nope", "dsr-export verfy x.dsr", "dsr-export compile x.dsr"):
        (words,) = dsr_commands(f"a && {line} > out.json || code=$?")
        with pytest.raises(click.UsageError):
            parse(words)
    assert shutil.which("bash")
