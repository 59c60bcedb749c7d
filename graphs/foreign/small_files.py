"""Small files of text that someone else may have made: regular files only, of bounded size and depth.

A path in a declaration may name a device or a FIFO, which would be read for ever; JSON may nest until the stack ends.
Every reader of text comes here.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphs.errors import ExportError

LARGEST_TEXT = 1 << 20  # bytes; what is written by hand has a few kilobytes
LARGEST_JSON = 16 << 20
DEEPEST = 64
MOST_CONTAINERS = 2_000_000  # each empty list costs twenty times its two bytes

Pairs = Callable[[list[tuple[str, Any]]], Any]


def read_small(path: Path, *, max_bytes: int = LARGEST_TEXT, hint: str | None = None) -> bytes:
    """The bytes of a regular file of at most `max_bytes`; links are followed, nothing is waited for.

    Raises:
        OSError: there is no such file, it cannot be read, or is a folder.
        ExportError: it is larger, is a device, a FIFO or a socket, or the path is none.
    """
    try:
        # Without O_NONBLOCK, a FIFO that nobody writes to would never open.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError:  # a NUL, or a character that no file name has
        raise ExportError(f"{str(path)!r} is no path", hint=hint) from None
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise ExportError(f"{path} is no regular file", hint=hint)
    with os.fdopen(descriptor, "rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ExportError(f"{path} has more than the {max_bytes} bytes allowed", hint=hint)
    return data


def parse_small_json(data: bytes, *, pairs: Pairs | None = None) -> Any:
    """The value of JSON in UTF-8, through `pairs` for each object.

    Raises ValueError for what is no JSON, nests deeper than `DEEPEST`, or holds more lists and objects than any file
    of ours.
    """
    if data.count(b"[") + data.count(b"{") > MOST_CONTAINERS:
        raise ValueError(f"it holds more than {MOST_CONTAINERS} lists and objects")
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError(f"it nests deeper than {DEEPEST} levels") from None
    if _depth_exceeds(value, DEEPEST):
        raise ValueError(f"it nests deeper than {DEEPEST} levels")
    return value


def read_json_object(path: Path, *, max_bytes: int = LARGEST_JSON, hint: str | None = None) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises ExportError where it cannot be read, is no JSON, or holds something else.
    """
    try:
        content = parse_small_json(read_small(path, max_bytes=max_bytes, hint=hint))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} is no readable JSON: {str(error)[:200]}", hint=hint) from error
    if not isinstance(content, dict):
        raise ExportError(f"{path} holds no JSON object", hint=hint)
    return content


def _depth_exceeds(value: Any, limit: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    items = value.values() if isinstance(value, dict) else value
    return limit == 0 or any(_depth_exceeds(each, limit - 1) for each in items if isinstance(each, (dict, list)))
