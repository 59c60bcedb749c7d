"""The versions of PyTorch that the whole suite was run with, and what is said of others. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass

_MINOR = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One run of the whole suite (`pytest`, no GPU): the release, its tests that passed and were skipped, the day.

    None failed: a release with failures does not stand in the table.
    """

    release: str
    passed: int
    skipped: int
    on: str


TRIED = (
    Tried(release="2.13.0", passed=7328, skipped=64, on="2026-11-29"),
    Tried(release="2.14.1", passed=7339, skipped=64, on="2026-11-29"),
)
"""Oldest first. The last one's minor is the newest that `pyproject.toml` admits: `tests/test_torch_versions.py`."""

OLDEST = (2, 6)
"""The oldest minor that is admitted. No whole run is recorded of those between it and the table."""


def minor_of(release: str) -> tuple[int, int] | None:
    """(2, 14) of "2.14.1+cu130"; None where it does not begin with two numbers."""
    found = _MINOR.match(release)
    return (int(found[1]), int(found[2])) if found else None


def accepted() -> str:
    """The releases that are taken, as pip writes it: ">=2.6,<2.15"."""
    newest = minor_of(TRIED[-1].release) or OLDEST
    return f">={OLDEST[0]}.{OLDEST[1]},<{newest[0]}.{newest[1] + 1}"


def install_torch() -> str:
    """The command that brings a torch that is taken."""
    return f"pip install 'torch{accepted()}'"


def torch_problem(release: str | None) -> str | None:
    """Why results with that release of torch are on nobody's word; None where it is taken, or there is none."""
    minor = minor_of(release or "")
    if minor is None:
        return None
    if minor < OLDEST:
        return f"torch {release} is older than {OLDEST[0]}.{OLDEST[1]}, the oldest that is taken"
    newest = TRIED[-1].release
    if minor > (minor_of(newest) or OLDEST):
        return f"torch {release} is newer than {newest}, the newest that the tests were run with"
    return None


def installed_torch_problem() -> str | None:
    """`torch_problem` of what is installed here."""
    try:
        return torch_problem(importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        return None
