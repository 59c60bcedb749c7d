"""Output files appear whole or not at all; devices and pipes get the finished bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dsr_export.errors import ExportError
from dsr_export.storage.leftovers import file_name, scratch_folder, undone
from dsr_export.storage.output_target import check_target, is_stream, open_stream, replaced


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed onto it when the block ends well, removed when it does not.

    Where `path` is a character device, a named pipe, or a descriptor such as `/dev/stdout`, the temporary file lies
    elsewhere, and its bytes are written to `path`.

    Raises:
        ExportError: the file can't be written (no such folder, no permission, disk full), or is a folder, a socket or
            a block device.
    """
    check_target(path)
    try:
        with _streamed(path) if is_stream(path) else _renamed(replaced(path)) as temporary:
            yield temporary
    except OSError as error:
        raise ExportError(
            f"can't write {path}: {error.strerror or error}", hint="check the folder and its space"
        ) from error


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    # A name of its own length: a file's name may be as long as the file system allows.
    temporary = path.with_name(file_name())
    with undone(partial(temporary.unlink, missing_ok=True)):
        yield temporary
        temporary.replace(path)


@contextmanager
def _streamed(path: Path) -> Iterator[Path]:
    with scratch_folder("output") as folder:
        yield folder / "output"
        with (folder / "output").open("rb") as made, os.fdopen(open_stream(path), "wb") as stream:
            shutil.copyfileobj(made, stream)
