"""The folder a diagnosis is written to: whole or not at all, and never in place of something that is not one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from dsr_export.bundle.destination import absolute, aside, finish_interrupted, settle_old, temporary
from dsr_export.diagnosis.record import KIND
from dsr_export.errors import ExportError
from dsr_export.readable import readable
from dsr_export.storage.disk import flush_path, remove_tree, write_durably, write_error
from dsr_export.storage.leftovers import undone
from graphs.foreign.small_files import parse_small_json, read_small

RECORD = "diagnosis.json"
LARGEST_RECORD = 64 << 20
FILES = frozenset({RECORD, "index.html", "dsr.toml", "neurons.json"})
_HINT = "give another --out, or --force to replace it"


def check_folder(out: Path, *, force: bool) -> None:
    """Raises ExportError where `out` may not be written: before the work, not after it.

    An earlier diagnosis is replaced; anything else only with `force`, and a folder around the user's own never.
    """
    place = absolute(out)
    try:
        finish_interrupted(place)
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise ExportError(f"{out} exists and is no folder", hint="give another --out")
        if place.is_dir() and not _is_diagnosis(place):
            _check_forced(place, out, force)
        parent = next(folder for folder in place.parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise ExportError(f"cannot write {out}: no permission to write in {parent}", hint="give another --out")
    except OSError as error:
        raise write_error(error, out, hint="check the path, or give another --out") from error


def write_folder(out: Path, contents: Mapping[str, str], *, force: bool) -> None:
    """Writes `contents` (file name -> text) as the folder `out`. Raises ExportError; an old folder then stays."""
    check_folder(out, force=force)
    place = absolute(out)
    folder, old = temporary(place), aside(place)
    try:
        with undone(partial(settle_old, old, place)), undone(partial(remove_tree, folder)):
            folder.mkdir(parents=True)
            for name, text in sorted(contents.items()):
                write_durably(readable(text).encode(), folder / name)
            flush_path(folder)
            if place.is_dir():
                place.rename(old)
            folder.rename(place)
            flush_path(place.parent)
    except OSError as error:
        raise write_error(error, out, hint="free some space, or give another --out") from error


def _is_diagnosis(folder: Path) -> bool:
    """Whether everything in it was written here."""
    if not {entry.name for entry in folder.iterdir()} <= FILES:
        return False
    with suppress(OSError, ValueError, ExportError):
        record = parse_small_json(read_small(folder / RECORD, max_bytes=LARGEST_RECORD))
        return isinstance(record, dict) and record.get("kind") == KIND
    return False


def _check_forced(place: Path, out: Path, force: bool) -> None:
    if not any(place.iterdir()):
        return
    if not force:
        raise ExportError(f"{out} exists and is no diagnosis, or holds other files too", hint=_HINT)
    kept = [Path.cwd()]
    with suppress(RuntimeError):  # no home folder
        kept.append(Path.home())
    for folder in kept:
        if folder.resolve().is_relative_to(place.resolve()):
            raise ExportError(f"{out} contains {folder} and is not replaced", hint="give another --out")
