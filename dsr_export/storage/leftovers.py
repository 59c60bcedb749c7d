"""What has to be undone where a process ends in the middle: temporary folders, a bundle that was moved aside.

A signal ends the command line from within its handler, where no `finally` runs: see
`dsr_export.cli.process.interrupts`.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from dsr_export.storage.disk import process_alive, remove_tree, this_machine

_pending: dict[object, Callable[[], None]] = {}


@contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """Calls `undo` at the end of the block, however it ends; `undo_all` does so before.

    It may be called twice, and before anything has happened.
    """
    place = object()
    _pending[place] = undo
    try:
        yield
    finally:
        try:
            undo()
        finally:
            _pending.pop(place, None)


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A folder for large intermediate files among the system's temporary ones; gone after the block.

    Those that killed processes of this user left there go as well.
    """
    among = Path(tempfile.gettempdir())
    folder = among / f"dsr-{name}-{_mine()}"
    remove_leftovers(among)
    with undone(partial(remove_tree, folder)):
        folder.mkdir(mode=0o700)
        yield folder


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A folder to be filled and renamed to `path`, on the same file system; gone after the block where it was not.

    Those that killed processes of this user left there go as well. Raises OSError where it cannot be made.
    """
    folder = path.with_name(f".dsr-beside-{_mine()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    with undone(partial(remove_tree, folder)):
        folder.mkdir()
        yield folder


def file_name() -> str:
    """Of a temporary file of this process, hidden and short: `remove_leftovers` takes it once the process is gone."""
    return f".dsr-file-{_mine()}.tmp"


def undo_all() -> None:
    """Undoes everything that is pending, the newest first, whatever fails: the process ends next."""
    for undo in reversed(list(_pending.values())):
        with suppress(Exception):
            undo()


def remove_leftovers(among: Path) -> None:
    """Removes what killed processes of this user and machine left in the folder `among`."""
    pattern = re.compile(rf"\.?dsr-[a-z-]+-{this_machine()}-([0-9]{{1,19}})-[0-9a-f]{{16}}(\.tmp)?", re.ASCII)
    with suppress(OSError):  # a folder that cannot be listed, or is tidied by another process as well
        for path in among.iterdir():
            match = pattern.fullmatch(path.name)
            if match and not process_alive(int(match[1])) and _is_own(path, stat.S_IFREG if match[2] else stat.S_IFDIR):
                path.unlink() if match[2] else remove_tree(path)


def _mine() -> str:
    return f"{this_machine()}-{os.getpid()}-{secrets.token_hex(8)}"


def _is_own(path: Path, kind: int) -> bool:
    """Not somebody else's, and no link: names among temporary files are anybody's choice."""
    found = path.lstat()
    return stat.S_IFMT(found.st_mode) == kind and (sys.platform == "win32" or found.st_uid == os.getuid())
