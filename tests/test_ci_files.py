"""The GitHub Action and the workflow: inputs, outputs and commands that exist, and scripts that do what they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.shell_commands import dsr_commands, option_names, parse

ROOT = Path(__file__).parent.parent
ACTION_FILE = ROOT / ".github" / "actions" / "export" / "action.yml"
ACTION = yaml.safe_load(ACTION_FILE.read_text(encoding="utf-8"))
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
SCRIPTS = {step["name"]: step["run"] for step in STEPS if "run" in step}
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

STUB = """#!/bin/bash
printf '%s\\n' "$*" >> "$LOG"
while [ $# -gt 0 ]; do
  case "$1" in
    --out) mkdir -p "$2"; echo '{}' > "$2/report.json"; echo '{}' > "$2/manifest.json";;
    --markdown) echo '### table' > "$2";;
  esac
  shift
done
echo '{}'
exit "$CODE"
"""


def test_every_input_is_declared_and_used() -> None:
    text = ACTION_FILE.read_text(encoding="utf-8")
    used = set(re.findall(r"\binputs\.([\w-]+)", text))
    assert used == set(ACTION["inputs"])
    assert {"model", "checkpoint", "precision", "target", "args"} <= used
    assert all(entry["description"] and "default" in entry for entry in ACTION["inputs"].values())


def test_steps_are_complete_and_their_outputs_are_set() -> None:
    ids = {step["id"]: step for step in STEPS if "id" in step}
    assert ACTION["runs"]["using"] == "composite"
    for step in STEPS:
        assert ("uses" in step) != ("run" in step and step["shell"] == "bash")
    for name, output in re.findall(r"steps\.(\w+)\.outputs\.(\w+)", ACTION_FILE.read_text(encoding="utf-8")):
        assert f'echo "{output}=' in ids[name]["run"]


def test_no_input_becomes_text_of_a_script() -> None:
    """`${{ }}` in a script is replaced before the shell reads it: a branch name could be a command."""
    for script in SCRIPTS.values():
        assert "${{" not in script
    for step in STEPS:
        for name in re.findall(r"\$\{?([A-Z_]+)", step.get("run", "")):
            assert name in step.get("env", {}) or name.startswith("GITHUB_"), name


def test_commands_have_valid_options() -> None:
    commands = [words for script in SCRIPTS.values() for words in dsr_commands(script)]
    assert [words[0] for words in commands] == ["build", "verify"]
    for words in commands:
        parse([word for word in words if not word.startswith("${")])
    collected = re.findall(r"(--[a-z-]+)", " ".join(re.findall(r"options\+?=\((.*?)\)", SCRIPTS["Build"])))
    assert set(collected) == {"--precision", "--out", "--force", "--json", "--checkpoint", "--target"}
    assert set(collected) <= option_names("build")


def test_the_workflow_runs_the_readme_command_and_the_action() -> None:
    (runs,) = [step["run"] for step in WORKFLOW["jobs"]["test"]["steps"] if "run" in step]
    assert (ROOT / runs).is_file()
    assert "README.md" in (ROOT / runs).read_text()
    (action,) = [step for step in WORKFLOW["jobs"]["action"]["steps"] if step["uses"].startswith("./")]
    assert ROOT / action["uses"] / "action.yml" == ACTION_FILE
    assert set(action["with"]) <= set(ACTION["inputs"])
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert set(WORKFLOW[True]) == {"push", "pull_request"}  # YAML 1.1 reads `on` as true


def _step(name: str, folder: Path, *, code: int, **inputs: str) -> tuple[int, str, dict[str, str]]:
    """Runs one step's script with a stand-in for `dsr-export`: exit code, the stand-in's arguments, the outputs."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "dsr-export").write_text(STUB)
    (folder / "bin" / "dsr-export").chmod(0o755)
    log, outputs = folder / "log", folder / "outputs"
    log.write_text(""), outputs.write_text("")
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    files = {"LOG": str(log), "GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(folder / "summary")}
    settings = {"PATH": path, "CODE": str(code), "RESULTS": str(folder / "results"), **files, **inputs}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", SCRIPTS[name]]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    made = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
    return done.returncode, log.read_text().strip(), made


BUILD = {"MODEL": "a.b:make", "CHECKPOINT": "", "PRECISION": "fp16", "TARGETS": "", "MORE": ""}


@needs_bash
def test_build_passes_on_what_was_asked_for(tmp_path: Path) -> None:
    inputs = {**BUILD, "CHECKPOINT": "my weights.pt", "TARGETS": "rtx onnxruntime", "MORE": "--batch 1,2,8"}
    code, given, outputs = _step("Build", tmp_path, code=0, **inputs)
    out = tmp_path / "results" / "model.dsr"
    assert code == 0
    assert given == (
        f"build a.b:make --precision fp16 --out {out} --force --json --checkpoint my weights.pt "
        "--target rtx --target onnxruntime --batch 1,2,8"
    )
    assert outputs == {"bundle": str(out), "code": "0"}
    assert _step("Build", tmp_path, code=0, **BUILD)[1] == f"build a.b:make --precision fp16 --out {out} --force --json"


@needs_bash
@pytest.mark.parametrize(("code", "ends"), [(0, 0), (3, 0), (1, 1), (2, 2)])
def test_only_a_failed_parity_goes_on_to_be_shown(code: int, ends: int, tmp_path: Path) -> None:
    assert _step("Build", tmp_path, code=code, **BUILD)[0] == ends


@needs_bash
@pytest.mark.parametrize(
    ("built", "verified", "passed"), [("0", 0, "true"), ("3", 0, "false"), ("0", 3, "false"), ("3", 3, "false")]
)
def test_the_summary_is_written_and_the_verdict_comes_last(
    built: str, verified: int, passed: str, tmp_path: Path
) -> None:
    _step("Build", tmp_path, code=0, **BUILD)
    bundle = str(tmp_path / "results" / "model.dsr")
    code, given, outputs = _step("Verify", tmp_path, code=verified, BUNDLE=bundle, BUILT=built)
    assert (code, outputs) == (0, {"passed": passed})
    assert given.startswith(f"verify {bundle} --json --junit ")
    assert (tmp_path / "summary").read_text() == "### table\n"
    assert (tmp_path / "results" / "report.json").is_file()
    assert _step("Verdict", tmp_path, code=0, PASSED=passed)[0] == (0 if passed == "true" else 3)


@needs_bash
def test_install_takes_the_root_of_the_repository(tmp_path: Path) -> None:
    (tmp_path / "pip").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    settings = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SOURCE": str(ACTION_FILE.parent)}
    done = subprocess.run(["bash", "-ec", SCRIPTS["Install"]], env=settings, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["install", f"{ROOT.resolve()}[rtx]"]
