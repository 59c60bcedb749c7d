"""The folder a diagnosis is written to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dsr_export.bundle.result_folder import ResultFolder
from dsr_export.diagnosis.record import KIND
from dsr_export.readable import readable

RECORD = "diagnosis.json"
FILES = frozenset({RECORD, "index.html", "dsr.toml", "neurons.json"})
_FOLDER = ResultFolder(record=RECORD, kind=KIND, called="diagnosis", known=FILES.__contains__)


def check_folder(out: Path, *, force: bool) -> None:
    """As `ResultFolder.check`."""
    _FOLDER.check(out, force=force)


def write_folder(out: Path, contents: Mapping[str, str], *, force: bool) -> None:
    """Writes `contents` (file name -> text) as the folder `out`; see `ResultFolder.write`."""
    _FOLDER.write(out, {name: readable(text).encode() for name, text in contents.items()}, force=force)
