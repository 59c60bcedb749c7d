"""The map for contributors names what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PATHS = sorted(set(re.findall(r"\b((?:dsr_export|graphs|calibration|tests)(?:/[\w.]+)*/?)", TEXT)))

UNNAMED = {  # said by their names
    *(f"dsr_export/{name}/" for name in ("benchmark", "declarations", "diagnosis", "diff", "drawing", "example_rows")),
    *(f"dsr_export/{name}/" for name in ("html", "images", "storage", "training", "user_code")),
    *(f"graphs/{name}/" for name in ("observe", "retrofit", "structure", "weights")),
}


@pytest.mark.parametrize("path", PATHS)
def test_what_the_map_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_map_names_every_folder_of_the_packages() -> None:
    found = {
        f"{folder.relative_to(ROOT)}/"
        for package in ("graphs", "dsr_export")
        for folder in (ROOT / package).iterdir()
        if (folder / "__init__.py").exists()
    }
    unnamed = {folder for folder in found if folder not in TEXT}
    assert unnamed <= UNNAMED, unnamed - UNNAMED
