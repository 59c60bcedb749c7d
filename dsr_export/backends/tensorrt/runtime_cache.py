"""Kernels that TensorRT-RTX finished for a GPU, kept for the next start: in a folder beside the bundle, never in it.

What lies there is code for the GPU and no part of what a manifest vouches for, so it is read only where nobody else may
write it. TensorRT-RTX itself refuses what another version, GPU or driver has made.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr_export.bundle.paths import MANIFEST
from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError
from dsr_export.storage.atomic import atomic_file

SUFFIX = ".rtx-cache"
MOST_BYTES = 1 << 30
Say = Callable[[str], None]


def cache_file(bundle: Bundle, engine: str) -> Path:
    """Where the kernels of a bundle's engine (a listed file) are kept: beside it, or the bundle that it is part of."""
    outermost = bundle.path.resolve()
    for folder in outermost.parents:
        if (folder / MANIFEST).is_file():
            outermost = folder
    folder = outermost.with_name(outermost.name + SUFFIX)
    return folder / f"{Path(engine).stem}-{bundle.manifest.files[engine].sha256[:16]}.bin"


@dataclass
class RuntimeCache:
    """The kernels of one engine: read before its context is made, written when it is closed."""

    path: Path
    say: Say
    _cache: Any = None
    _read: bytes = b""

    def fill(self, cache: Any) -> None:
        """Into TensorRT-RTX's `cache`; says what the start without them takes."""
        self._cache, self._read = cache, self._stored()
        with suppress(RuntimeError):  # what cannot be read is made again
            if self._read and cache.deserialize(self._read):
                return
        again = "was made by another version, GPU or driver, and is made again" if self._read else "keeps them"
        self._read = b""
        self.say(
            "TensorRT-RTX finishes this engine's kernels for the GPU, which takes a while on the first start; "
            f"{self.path} {again}"
        )

    def keep(self) -> None:
        """Writes what the cache holds now, if that is news. That it cannot be written is said, and no error."""
        if self._cache is None:
            return
        cache, self._cache = self._cache, None
        try:
            made = cache.serialize()
        except RuntimeError as error:
            self.say(f"the kernels could not be kept in {self.path}: {error}")
            return
        blob = b"" if made is None else bytes(made)
        if not blob or blob == self._read or not self._is_ours(missing=True):
            return
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            with atomic_file(self.path) as temporary:
                temporary.write_bytes(blob)
                temporary.chmod(0o600)
        except (ExportError, OSError) as error:
            self.say(f"the kernels could not be kept in {self.path}: {error}")

    def _stored(self) -> bytes:
        """Empty where there is nothing that may be read."""
        if not self._is_ours(missing=False):
            return b""
        with suppress(OSError):
            return self.path.read_bytes()
        return b""

    def _is_ours(self, *, missing: bool) -> bool:
        """Whether nobody but this user could have written the file, or put one there; `missing` without a file."""
        folder, found = _status(self.path.parent), _status(self.path)
        plain = found is None or (stat.S_ISREG(found.st_mode) and found.st_size <= MOST_BYTES)
        if not plain or not all(each is None or _only_ours(each) for each in (folder, found)):
            self.say(f"{self.path} can be written by others, or is no plain file: it is left alone")
            return False
        return missing or found is not None


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def _only_ours(found: os.stat_result) -> bool:
    if not hasattr(os, "getuid"):  # Windows: folders of a user are that user's
        return True
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
