"""sha256, in hexadecimal: of bytes and of files. What goes into a digest is the caller's to say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def bytes_digest(*parts: bytes | memoryview) -> str:
    """sha256 over the parts, one behind the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """sha256 over the contents of `paths`, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
