"""What `build --matrix` is asked to do. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class FleetRequest:
    """The matrix, and what was given beside it. `out` is `./fleet` where it is None; `cell` is `I/N`."""

    matrix: Path
    out: Path | None = None
    resume: bool = False
    cell: str | None = None
    jobs: int = 1
    html: Path | None = None
    markdown: Path | None = None
