"""What an output's path names: a file that is made or replaced, or a device, pipe or descriptor that is written to.

Only a regular file is ever replaced. Whatever else is there stays what it is, behind a link too.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from pathlib import Path

from dsr_export.errors import ExportError

READER_PATIENCE = 5.0  # seconds until somebody reads a named pipe
_DESCRIPTOR = re.compile(r"/dev/std(?P<name>in|out|err)|/(?:dev|proc/self)/fd/(?P<number>\d{1,9})")
_NUMBERS = {"in": 0, "out": 1, "err": 2}
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device"}
_stdout = [1]


def set_stdout(descriptor: int) -> None:
    """Says where a command's answers go: what it writes to `/dev/stdout` goes there too."""
    _stdout[0] = descriptor


def check_target(path: Path) -> None:
    """Before the work: raises ExportError where `path` cannot become an output file and is nothing to write to."""
    try:
        _check(path)
    except OSError as error:
        raise ExportError(f"can't write {path}: {error.strerror or error}", hint="give another path") from error


def is_stream(path: Path) -> bool:
    """Whether `path` is written to where it is, not replaced. Raises OSError where that cannot be told."""
    return _descriptor(path) is not None or _mode(path) in (stat.S_IFCHR, stat.S_IFIFO)


def open_stream(path: Path) -> int:
    """A descriptor to write to, the caller's own. Raises OSError; a pipe that nobody reads is one, after a while."""
    number = _descriptor(path)
    if number is not None:
        return os.dup(number)
    deadline = time.monotonic() + READER_PATIENCE
    while True:
        try:
            opened = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > deadline:
                raise OSError(errno.ENXIO, "nobody reads this pipe") from error
            time.sleep(0.02)
        else:
            os.set_blocking(opened, True)
            return opened


def replaced(path: Path) -> Path:
    """The file that is made or replaced for `path`: what a link names, so that the link stays."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _check(path: Path) -> None:
    if is_stream(path):
        return
    mode = _mode(path)
    if mode in _KINDS:
        raise ExportError(f"can't write {path}: it is {_KINDS[mode]}", hint="give the path of a file")
    folder = replaced(path).parent
    if not folder.is_dir():
        reason = f"{folder} is no folder" if folder.exists() else f"the folder {folder} does not exist"
        raise ExportError(f"can't write {path}: {reason}", hint="give the path of a file in an existing folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ExportError(f"can't write {path}: no permission to write in {folder}", hint="give another path")


def _descriptor(path: Path) -> int | None:
    """By name: opening it would start again at a file's beginning, and replacing it would take it from everyone."""
    match = _DESCRIPTOR.fullmatch(os.path.normpath(path))
    if match is None:
        return None
    number = _NUMBERS[match["name"]] if match["name"] else int(match["number"])
    return _stdout[0] if number == 1 else number


def _mode(path: Path) -> int | None:
    """The kind of what is there, behind links; None for nothing."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return None
