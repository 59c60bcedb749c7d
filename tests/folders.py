"""What lies in a folder."""

from __future__ import annotations

from pathlib import Path


def names(folder: Path) -> list[str]:
    """Names of files and folders in it, sorted."""
    return sorted(path.name for path in folder.iterdir())
