"""A text file of prompts, one a line."""

from __future__ import annotations

from pathlib import Path

from dsr_export.errors import ExportError
from graphs.foreign.small_files import read_small

LARGEST = 64 << 20  # bytes: a million prompts


def read_prompts(path: Path, *, option: str = "--prompts") -> tuple[str, ...]:
    """The prompts in a text file, one a line, without empty lines. ExportError where there are none.

    `option` is what names the file on the command line.
    """
    hint = f"give {option} a text file with one prompt a line"
    try:
        text = read_small(path, max_bytes=LARGEST, hint=hint).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ExportError(f"no such file: {path}", hint=hint) from error
    except OSError as error:
        raise ExportError(f"{path} can't be read: {error}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise ExportError(f"{path} is no text in UTF-8: {error}", hint=hint) from error
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not found:
        raise ExportError(f"{path} holds no prompts", hint=hint)
    return found
