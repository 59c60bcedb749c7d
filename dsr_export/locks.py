"""One build at a time per output. The lock is a file in the cache, so that nothing is left beside the output."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dsr_export.cache import VARIABLE, cache_root
from dsr_export.errors import ExportError


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
    name = hashlib.sha256(os.fsencode(out.resolve())).hexdigest()
    folder = cache_root() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return FileLock(folder / f"{name}.lock", timeout=0)


def _unwritable(path: Path | str, error: Exception) -> ExportError:
    return ExportError(f"cannot write {path}: {error}", hint=f"point {VARIABLE} at a folder that can be written")
