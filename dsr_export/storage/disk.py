"""What the bundle writer and the cache share: durable copies, full disks, and what killed processes leave behind."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dsr_export.errors import ExportError
from graphs.digests import bytes_digest

CHUNK = 1 << 20
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class Recorded:
    """A file and the sha256 of what was once written into it: copies of it are held against that."""

    path: Path
    sha256: str


class DamagedFile(ExportError):
    """A file that is to be copied does not hold what was written into it."""

    def __init__(self, path: Path, *, hint: str) -> None:
        super().__init__(f"{path} is damaged: it does not hold what was written into it", hint=hint)
        self.path = path


def is_disk_full(error: OSError) -> bool:
    """No space, no quota, or a file larger than the file system or a limit allows."""
    return error.errno in DISK_FULL


def write_error(error: OSError, path: Path, *, needed: int | None = None, hint: str) -> ExportError:
    """What to raise for an `error` met while writing `path`; `needed` in bytes. Call it before anything is removed."""
    if is_disk_full(error):
        return disk_full(path, needed=needed, hint=hint)
    return ExportError(f"cannot write {path}: {error}", hint=hint)


def disk_full(path: Path, *, needed: int | None, hint: str) -> ExportError:
    """The error for a file system that cannot take `path`."""
    demand = "" if needed is None else f"needs {_megabytes(needed)}, "
    try:
        if _out_of_inodes(path):
            return ExportError(f"no room for another file writing {path}: the disk is out of inodes", hint=hint)
        free = _megabytes(free_bytes(path))
    except OSError:
        free = "an unknown amount"
    return ExportError(f"disk full writing {path}: {demand}{free} free", hint=hint)


def free_bytes(path: Path) -> int:
    """Free space where `path` is or will be, as far as the user may use it; OSError where that cannot be told."""
    return shutil.disk_usage(nearest_existing(path)).free


def _out_of_inodes(path: Path) -> bool:
    """Whether the file system has space but can hold no more files; some, which count none, say 0 of 0."""
    if not hasattr(os, "statvfs"):
        return False
    found = os.statvfs(nearest_existing(path))
    return found.f_files > 0 and found.f_favail == 0 and found.f_bavail > 0


def nearest_existing(path: Path) -> Path:
    """The first of `path` and the folders above it that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def copy_durably(source: Path, target: Path) -> tuple[str, int]:
    """Copies contents and flushes them to the disk. Returns the sha256 and size of what was copied. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK):
            writer.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        writer.flush()
        os.fsync(writer.fileno())  # a rename can survive a power cut that unflushed data does not
    return digest.hexdigest(), size


def write_durably(data: bytes, target: Path) -> tuple[str, int]:
    """As `copy_durably`, from memory."""
    with target.open("xb") as writer:
        writer.write(data)
        writer.flush()
        os.fsync(writer.fileno())
    return bytes_digest(data), len(data)


def flush_path(path: Path) -> None:
    """Flushes a closed file, or the entries of a folder, where the system can (Windows flushes only open writers)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems that cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Removes a folder and everything in it, as far as possible; what stays is found by the next build."""
    shutil.rmtree(path, ignore_errors=True)


def process_alive(pid: int) -> bool:
    """Whether a process of this machine has this id. Where that cannot be asked, yes: better a leftover than a loss."""
    if sys.platform == "win32":  # os.kill(pid, 0) would send Ctrl-C there
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


@cache
def this_machine() -> str:
    """It in a file name, eight hexadecimal digits: process ids mean nothing on another, nor in another container."""
    try:
        numbering = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not on Linux
        numbering = ""
    return bytes_digest(os.fsencode(f"{platform.node()} {numbering}"))[:8]


def _megabytes(count: int) -> str:
    return f"{-(-count // 1_000_000)} MB"
