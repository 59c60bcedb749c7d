"""One build at a time per output. The lock is a file in the cache, so that nothing is left beside the output.

A cache that may only be read has its locks in the system's folder for temporary files.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dsr_export.errors import ExportError
from dsr_export.storage.cache import VARIABLE, cache_root
from graphs.digests import bytes_digest

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Holds the lock of `out` (its real path) within the block; the system frees it when a process dies.

    Raises:
        ExportError: another build holds it, or the cache cannot be written.
    """
    lock = _lock(out)
    try:
        lock.acquire()
    except Timeout:
        raise ExportError(
            f"another build is writing to {out}", hint="wait until it is done, or give another --out"
        ) from None
    except (OSError, NotImplementedError) as error:  # the second: a file system without locks
        raise _unwritable(lock.lock_file, error) from error
    try:
        yield
    finally:
        lock.release()


def _lock(out: Path) -> FileLock:
    name = bytes_digest(os.fsencode(out.resolve()))
    return FileLock(_folder() / f"{name}.lock", timeout=0)


def _folder() -> Path:
    """Where locks lie: every build that uses this cache, as this user, finds the same place."""
    folder = cache_root() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        return _outside(folder)
    except OSError as error:
        if error.errno in _READ_ONLY:
            return _outside(folder)
        raise _unwritable(folder, error) from error


def _outside(folder: Path) -> Path:
    """A folder of the user's own for the locks of a cache that cannot be written.

    Anyone may have made a folder of this name before: a link, or another's folder, is refused.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    name = bytes_digest(os.fsencode(folder))[:16]
    path = Path(tempfile.gettempdir()) / f"dsr-export-locks-{user}-{name}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise _unwritable(folder, error) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user:
        raise ExportError(f"{path} belongs to someone else", hint=f"point {VARIABLE} at a folder that can be written")
    return path


def _unwritable(path: Path | str, error: Exception) -> ExportError:
    return ExportError(f"cannot write {path}: {error}", hint=f"point {VARIABLE} at a folder that can be written")
