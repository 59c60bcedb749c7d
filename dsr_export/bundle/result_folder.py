"""A folder of results that a command makes: whole or not at all, and never in place of something that is not one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dsr_export.bundle.destination import absolute, aside, finish_interrupted, settle_old, temporary
from dsr_export.errors import ExportError
from dsr_export.storage.disk import flush_path, remove_tree, write_durably, write_error
from dsr_export.storage.leftovers import undone
from graphs.foreign.small_files import parse_small_json, read_small

LARGEST_RECORD = 64 << 20
_HINT = "give another --out, or --force to replace it"


@dataclass(frozen=True, kw_only=True)
class ResultFolder:
    """One kind of them: its JSON file `record` has `kind`, and nothing lies there whose name is not `known`.

    `called` is what an error calls it, such as `diagnosis`.
    """

    record: str
    kind: str
    called: str
    known: Callable[[str], bool]

    def check(self, out: Path, *, force: bool) -> None:
        """Raises ExportError where `out` may not be written: before the work, not after it.

        An earlier one is replaced; anything else only with `force`, and a folder around the user's own never.
        """
        place = absolute(out)
        try:
            finish_interrupted(place)
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise ExportError(f"{out} exists and is no folder", hint="give another --out")
            if place.is_dir() and not self._is_one(place):
                _check_forced(place, out, force, self.called)
            parent = next(folder for folder in place.parents if folder.exists())
            if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
                raise ExportError(f"cannot write {out}: no permission to write in {parent}", hint="give another --out")
            Path(tempfile.mkdtemp(prefix=".dsr-", dir=parent)).rmdir()  # some folders take nothing, whatever they say
        except OSError as error:
            raise write_error(error, out, hint="check the path, or give another --out") from error

    def write(self, out: Path, contents: Mapping[str, bytes], *, force: bool) -> None:
        """Writes `contents` (file name -> bytes) as the folder `out`. Raises ExportError; an old folder then stays."""
        self.check(out, force=force)
        place = absolute(out)
        folder, old = temporary(place), aside(place)
        try:
            with undone(partial(settle_old, old, place)), undone(partial(remove_tree, folder)):
                folder.mkdir(parents=True)
                for name, data in sorted(contents.items()):
                    write_durably(data, folder / name)
                flush_path(folder)
                if place.is_dir():
                    place.rename(old)
                folder.rename(place)
                flush_path(place.parent)
        except OSError as error:
            raise write_error(error, out, hint="free some space, or give another --out") from error

    def _is_one(self, folder: Path) -> bool:
        """Whether everything in it was written here."""
        if not all(self.known(entry.name) for entry in folder.iterdir()):
            return False
        with suppress(OSError, ValueError, ExportError):
            record = parse_small_json(read_small(folder / self.record, max_bytes=LARGEST_RECORD))
            return isinstance(record, dict) and record.get("kind") == self.kind
        return False


def _check_forced(place: Path, out: Path, force: bool, called: str) -> None:
    if not any(place.iterdir()):
        return
    if not force:
        raise ExportError(f"{out} exists and is no {called}, or holds other files too", hint=_HINT)
    kept = [Path.cwd()]
    with suppress(RuntimeError):  # no home folder
        kept.append(Path.home())
    for folder in kept:
        if folder.resolve().is_relative_to(place.resolve()):
            raise ExportError(f"{out} contains {folder} and is not replaced", hint="give another --out")
