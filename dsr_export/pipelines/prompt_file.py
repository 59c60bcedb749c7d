"""A text file of prompts, one a line."""

from __future__ import annotations

from pathlib import Path

from dsr_export.errors import ExportError
from graphs.foreign.small_files import read_small

LARGEST = 64 << 20  # bytes: a million prompts
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
