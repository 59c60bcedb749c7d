"""What has to be undone where a process ends in the middle: temporary folders, a bundle that was moved aside.

A signal ends the command line from within its handler, where no `finally` runs: see
`dsr_export.cli.process.interrupts`.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from dsr_export.storage.disk import remove_tree

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
    """A folder for large intermediate files among the system's temporary ones; gone after the block."""
    folder = Path(tempfile.gettempdir(), f"dsr-{name}-{secrets.token_hex(8)}")
    with undone(partial(remove_tree, folder)):
        folder.mkdir(mode=0o700)
        yield folder


def undo_all() -> None:
    """Undoes everything that is pending, the newest first, whatever fails: the process ends next."""
    for undo in reversed(list(_pending.values())):
        with suppress(Exception):
            undo()
