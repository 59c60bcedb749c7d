"""Where a bundle goes: whether the place is free, ours, or someone else's, found out before the long work."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

from dsr_export.bundle.manifest import Manifest
from dsr_export.bundle.paths import MANIFEST
from dsr_export.errors import ExportError
from dsr_export.storage.canonical import read_bounded
from dsr_export.storage.disk import nearest_existing, process_alive, remove_tree

Destination = Literal["new", "same", "replace"]

LONGEST_NAME = 200  # bytes; the temporary folder's name is longer, and file systems end at 255
_OTHER = "give another --out, or --force to replace it"


def check_destination(out: Path, build_key: str, force: bool) -> Destination:
    """Whether a bundle of `build_key` may be written to `out`: a new place, the same build, or to be replaced.

    Only the manifest of an existing bundle is read; with `force` anything but a file, a link, and a folder around
    the user's own is replaced, the same build too. First finishes what a killed build left there.

    Raises:
        ExportError: `out` cannot be written, or is something that `force` would have to replace.
    """
    try:
        return _checked(absolute(out), build_key, force)
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error}", hint="check the path, or give another --out") from error


def absolute(out: Path) -> Path:
    """`out` without `..` and independent of the working folder; links are kept. ExportError for an impossible name."""
    if "\0" in str(out):
        raise ExportError(f"the output path {str(out)!r} holds a NUL character", hint="give another --out")
    path = Path(os.path.abspath(out))  # noqa: PTH100 (resolve() would follow a link at `out`, which is refused)
    if not 0 < len(os.fsencode(path.name)) <= LONGEST_NAME:
        raise ExportError(f"{out} is no place for a bundle: bad folder name", hint="give another --out")
    return path


def temporary(out: Path) -> Path:
    """The folder a bundle is assembled in: beside `out`, hence on the same file system."""
    return out.with_name(f".{out.name}.{os.getpid()}.tmp")


def parts_folder(out: Path) -> Path:
    """Where the parts of a pipeline are built that go into the bundle `out`."""
    return out.with_name(f".{out.name}.{os.getpid()}.parts")


def aside(out: Path) -> Path:
    """Where the old bundle waits while the new one takes its place."""
    return out.with_name(f".{out.name}.{os.getpid()}.old")


def settle_old(old: Path, out: Path) -> None:
    """Removes what was moved aside, or moves it back where nothing took its place: nobody loses the old one."""
    if os.path.lexists(old) and not os.path.lexists(out):
        old.rename(out)
    remove_tree(old)


def finish_interrupted(out: Path) -> None:
    """Removes what builds that no longer run left beside `out`; a bundle that was moved aside comes back."""
    pattern = re.compile(rf"\.{re.escape(out.name)}\.(\d{{1,19}})\.(tmp|old|parts)")
    entries = sorted(out.parent.iterdir()) if out.parent.is_dir() else []
    for entry in entries:
        match = pattern.fullmatch(entry.name)
        if match is None or entry.is_symlink() or not entry.is_dir() or _running(int(match[1])):
            continue
        if match[2] == "parts" and int(match[1]) == os.getpid():
            continue  # of the build that asks: they go into the bundle
        if match[2] == "old" and not os.path.lexists(out):
            entry.rename(out)
        else:
            remove_tree(entry)


def _running(pid: int) -> bool:
    return pid != os.getpid() and process_alive(pid)


def _checked(out: Path, build_key: str, force: bool) -> Destination:
    _check_parent(nearest_existing(out.parent), out)
    finish_interrupted(out)
    if out.is_symlink():
        raise ExportError(f"{out} is a link; a bundle is never written through one", hint=f"give --out {out.resolve()}")
    if not out.exists():
        return "new"
    if not out.is_dir():
        raise ExportError(f"{out} exists and is a file, expected a bundle folder", hint="give another --out")
    if force:
        _check_replaceable(out)
        return "replace"
    return _same_or_refused(out, build_key)


def _check_parent(parent: Path, out: Path) -> None:
    if not parent.is_dir():
        raise ExportError(f"cannot write {out}: {parent} is a file", hint="give another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ExportError(f"cannot write {out}: no permission to write in {parent}", hint="give another --out")


def _same_or_refused(out: Path, build_key: str) -> Destination:
    if not os.path.lexists(out / MANIFEST):
        raise ExportError(f"{out} exists and is no bundle: it has no {MANIFEST}", hint=_OTHER)
    try:
        manifest = Manifest.from_bytes(read_bounded(out / MANIFEST), where=out / MANIFEST)
    except ExportError as error:
        raise ExportError(f"{out} exists and is no bundle that can be read: {error.message}", hint=_OTHER) from error
    if manifest.build_key != build_key:
        raise ExportError(f"{out} holds a bundle of other inputs or options ('{manifest.name}')", hint=_OTHER)
    return "same"


def _check_replaceable(out: Path) -> None:
    """--force deletes a folder; a slip such as `--out ~ --force` must not delete everything."""
    real, kept = out.resolve(), [Path.cwd()]
    with suppress(RuntimeError):  # no home folder
        kept.append(Path.home())
    for folder in kept:
        if folder.resolve().is_relative_to(real):
            raise ExportError(f"{out} contains {folder} and is not replaced", hint="give another --out")
