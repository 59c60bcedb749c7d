"""An object whose unpickling shows: it leaves a file behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)
