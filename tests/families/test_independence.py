"""The import contracts of the families hold for every family there is, and for every file beside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "dsr_export" / "families"
SHARED = {"dsr_export.families.network_parts"}
"""Folders that are no family."""


def _contract(kind: str) -> dict[str, Any]:
    text = (ROOT / "pyproject.toml").read_text()
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    (found,) = (each for each in contracts if each["type"] == kind and "families" in str(each))
    return found


def test_no_family_and_no_shared_file_is_left_out() -> None:
    families = {f"dsr_export.families.{path.parent.name}" for path in FOLDER.glob("*/__init__.py")} - SHARED
    files = {f"dsr_export.families.{path.stem}" for path in FOLDER.glob("*.py")} - {"dsr_export.families.__init__"}
    apart = _contract("forbidden")
    assert families == set(_contract("independence")["modules"]) == set(apart["forbidden_modules"])
    assert files | SHARED == set(apart["source_modules"])
