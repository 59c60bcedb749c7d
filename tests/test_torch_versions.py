"""Which versions of PyTorch were tried: the bound ends at the newest of them, and what runs here is one."""

from __future__ import annotations

import datetime
import json
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from dsr_export.cli.printing.errors import explained
from dsr_export.torch_versions import OLDEST, TRIED, accepted, minor_of, torch_problem
from dsr_export.tracing.trace_errors import trace_error
from tests.conftest import Cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
(BOUND,) = [each.specifier for each in map(Requirement, PROJECT["project"]["dependencies"]) if each.name == "torch"]
NEWEST = Version(TRIED[-1].release)
NEXT = f"{NEWEST.major}.{NEWEST.minor + 1}.0"


def test_the_table_goes_up_and_each_entry_is_a_run() -> None:
    releases = [Version(each.release) for each in TRIED]
    assert releases == sorted(set(releases))
    for each in TRIED:
        assert each.passed > 7000 and 0 <= each.skipped < 100
        assert datetime.date.fromisoformat(each.on) <= datetime.date.today()


def test_the_bound_admits_what_was_tried_and_nothing_newer() -> None:
    assert all(each.release in BOUND for each in TRIED)
    assert f"{NEWEST.major}.{NEWEST.minor}.99" in BOUND and NEXT not in BOUND
    assert f"{OLDEST[0]}.{OLDEST[1]}.0" in BOUND and f"{OLDEST[0]}.{OLDEST[1] - 1}.9" not in BOUND
    assert set(accepted().split(",")) == {str(each) for each in BOUND}


def test_what_runs_here_was_tried() -> None:
    assert minor_of(metadata.version("torch")) in {minor_of(each.release) for each in TRIED}


def test_what_ci_installs_was_tried() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    (pinned,) = [line for line in lines if line and not line.startswith("#")]
    assert pinned in {f"torch=={each.release}" for each in TRIED}


def test_an_archive_of_the_sources_has_the_files_that_the_readme_names() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {"constraints.txt", "CONTRIBUTING.md"} <= set(included)
    assert all((ROOT / name).exists() for name in included)


@pytest.mark.parametrize("release", ["2.6.0", "2.13.0+cpu", "2.14.1+cu130", "2.14.0a0+git1", None, "unknown"])
def test_a_torch_within_the_bound_is_no_problem(release: str | None) -> None:
    assert torch_problem(release) is None


@pytest.mark.parametrize(
    ("release", "said"),
    [
        ("2.5.1+cu121", "torch 2.5.1+cu121 is older than 2.6"),
        ("1.13.1", "torch 1.13.1 is older than 2.6"),
        (NEXT, f"torch {NEXT} is newer than {NEWEST}"),
        ("3.0.0.dev20270101", f"torch 3.0.0.dev20270101 is newer than {NEWEST}"),
    ],
)
def test_a_torch_beyond_it_is_named_wherever_it_may_be_the_cause(
    release: str, said: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: release if name == "torch" else installed(name))
    remedy = f"pip install 'torch{accepted()}'"
    facts = json.loads(cli("doctor", "--json").out)
    assert facts["packages"]["torch"] == release and facts["torch_problem"].startswith(said)
    told = rf"^torch +{re.escape(release)}\n {{20}} {re.escape(said)}.*: {re.escape(remedy)}$"
    assert re.search(told, cli("doctor").out, re.M)
    for hint in (explained(AttributeError("gone"))[1], trace_error("m", RuntimeError("gone")).hint):
        assert said in str(hint) and remedy in str(hint) and "this is a bug" not in str(hint)


def test_doctor_says_nothing_of_a_torch_that_is_taken(cli: Cli) -> None:
    assert json.loads(cli("doctor", "--json").out)["torch_problem"] is None
    assert "newer than" not in cli("doctor").out
