"""Why a folder holds no weights that can be read. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from dsr_export.errors import ExportError


def no_weights(folder: Path, message: str, *, hint: str) -> ExportError:
    """The error `message`; where the folder has GGUF files in their place, it says that instead."""
    found = sorted(path.name for path in folder.glob("*.gguf"))
    if not found:
        return ExportError(message, hint=hint)
    return ExportError(
        f"{folder} holds {found[0]}, a GGUF file, whose weights are quantised",
        hint="use the folder of safetensors that it was made from",
    )
