"""What `build --matrix` is asked to do. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dsr_export.cluster.request import ExecutorRequest


@dataclass(frozen=True, kw_only=True)
class FleetRequest:
    """The matrix, and what was given beside it. `out` is `./fleet` where it is None; `cell` is `I/N`.

    `jobs` are the cells at once; None is one here, and all on a cluster.
    """

    matrix: Path
    out: Path | None = None
    resume: bool = False
    cell: str | None = None
    jobs: int | None = None
    executor: ExecutorRequest = field(default_factory=ExecutorRequest)
    html: Path | None = None
    markdown: Path | None = None
