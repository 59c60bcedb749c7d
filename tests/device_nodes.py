"""Device nodes of a test's own: the machine's are never touched."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

_NODES = {"null": (stat.S_IFCHR, 1, 3), "full": (stat.S_IFCHR, 1, 7), "disk": (stat.S_IFBLK, 7, 250)}


def device_node(path: Path, kind: str) -> Path:
    """Makes a node as Linux numbers it; skips the test where that is not allowed, or the node cannot be opened."""
    form, major, minor = _NODES[kind]
    try:
        os.mknod(path, form | 0o600, os.makedev(major, minor))
        if form == stat.S_IFCHR:
            os.close(os.open(path, os.O_WRONLY))
    except OSError as error:
        pytest.skip(f"device nodes cannot be made here: {error}")
    return path
