"""A TOML file that someone wrote: a regular one, small, of tables that end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError
from graphs.foreign.small_files import read_small

LARGEST_TOML = 16 << 10  # bytes; the reader's time grows with the square of a dotted key's parts


def read_toml(path: Path, option: str, *, what: str) -> dict[str, Any]:
    """The file's values. `option` is what it was given with, `what` says what such a file holds.

    Raises ExportError for a file that is missing, can't be read, is no TOML, or is larger or deeper than any of ours.
    """
    hint = f"give {option} a TOML file"
    try:
        return _parsed(read_small(path, max_bytes=LARGEST_TOML, hint=what).decode())
    except FileNotFoundError as error:
        raise ExportError(f"no such file: {path}", hint=hint) from error
    except OSError as error:
        raise ExportError(f"{path} can't be read: {error}", hint=hint) from error
    except RecursionError:
        raise ExportError(f"{path} nests without end", hint=what) from None
    except ValueError as error:  # covers TOMLDecodeError, UnicodeDecodeError and integers of thousands of digits
        raise ExportError(f"{path} is no TOML: {str(error)[:200]}", hint="correct it at that place") from error


def _parsed(text: str) -> dict[str, Any]:
    """The reader is imported here: a device with Python 3.10 has none, and needs none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)
