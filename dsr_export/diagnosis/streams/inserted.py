"""Where the registers lie that a diagnosis is told to insert."""

from __future__ import annotations

from pathlib import Path

from dsr_export.config import ModelRequest
from dsr_export.declarations.dsr_file import read_dsr_file


def register_file(request: ModelRequest) -> Path | None:
    """The registers that are inserted into the model, by option or declaration."""
    if "register_file" in request.options:
        return Path(str(request.options["register_file"]))
    return None if request.dsr is None else read_dsr_file(request.dsr).register_file
