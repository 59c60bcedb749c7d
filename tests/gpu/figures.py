"""Measured figures of a run on a GPU, kept in one JSON file so that they can be sent along with the verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Figures:
    """What was recorded by name; written at once, since a crash of a driver's library ends the process."""

    def __init__(self, path: Path | None) -> None:
        """Figures that `path` has already, of an earlier run, are kept."""
        self.path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.is_file() else {}

    def record(self, name: str, value: Any) -> None:
        self.values[name] = value
        if self.path is not None:
            self.path.write_text(json.dumps(self.values, indent=1, sort_keys=True))
