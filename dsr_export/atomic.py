"""Output files appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dsr_export.errors import ExportError
from dsr_export.leftovers import undone


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed onto it when the block ends well, removed when it does not.

    Raises:
        ExportError: the file can't be written (no such folder, no permission, disk full).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with undone(partial(temporary.unlink, missing_ok=True)):
            yield temporary
            temporary.replace(path)
    except OSError as error:
        raise ExportError(
            f"can't write {path}: {error.strerror or error}", hint="check the folder and its space"
        ) from error
