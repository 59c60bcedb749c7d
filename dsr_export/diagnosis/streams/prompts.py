"""What files beside the model say of a pipeline's diagnosis: its prompts, and where inserted registers lie."""

from __future__ import annotations

from pathlib import Path

from dsr_export.config import ModelRequest
from dsr_export.declarations.dsr_file import read_dsr_file
from dsr_export.errors import ExportError
from graphs.foreign.small_files import read_small

LARGEST = 1 << 20
HINT = "give --prompts a text file with one prompt a line"


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts in a text file, one a line, without empty lines. ExportError where there are none."""
    try:
        text = read_small(path, max_bytes=LARGEST, hint=HINT).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ExportError(f"no such file: {path}", hint=HINT) from error
    except OSError as error:
        raise ExportError(f"{path} can't be read: {error}", hint=HINT) from error
    except UnicodeDecodeError as error:
        raise ExportError(f"{path} is no text in UTF-8: {error}", hint=HINT) from error
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not found:
        raise ExportError(f"{path} holds no prompts", hint=HINT)
    return found


def register_file(request: ModelRequest) -> Path | None:
    """The registers that are inserted into the model, by option or declaration."""
    if "register_file" in request.options:
        return Path(str(request.options["register_file"]))
    return None if request.dsr is None else read_dsr_file(request.dsr).register_file
