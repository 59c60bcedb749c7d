"""Writes a bundle: assembled in a hidden folder beside the destination, flushed, then renamed into place whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from dsr_export.bundle.components import check_component
from dsr_export.bundle.destination import Destination, absolute, aside, check_destination, settle_old, temporary
from dsr_export.bundle.manifest import FileEntry, Manifest
from dsr_export.bundle.paths import MANIFEST, check_path_set, parents
from dsr_export.errors import ExportError
from dsr_export.storage.canonical import read_bounded
from dsr_export.storage.disk import (
    DamagedFile,
    Recorded,
    copy_durably,
    disk_full,
    flush_path,
    free_bytes,
    remove_tree,
    write_durably,
    write_error,
)
from dsr_export.storage.leftovers import undone

__all__ = ["Content", "Destination", "check_destination", "content_size", "write_bundle"]

Content = Path | bytes | Recorded
"""What a file of a bundle is made from: a file to copy, its bytes, or a file whose checksum is known."""

_HINT = "free some space, or give an --out on another disk"
_MARGIN = 1 << 20  # bytes, for the manifest and what folders take


def write_bundle(out: Path, manifest: Manifest, contents: Mapping[str, Content], *, force: bool = False) -> Path:
    """Writes `contents`, by name in the bundle, and the manifest, which lists them.

    `manifest.files` is ignored: sizes and checksums are those of what was written. Returns `out`.
    Nothing is left at `out` or beside it when this fails or is interrupted; an old bundle stays as it was.

    Raises:
        DamagedFile: a file does not have its recorded checksum.
        ExportError: as `check_destination`; a content is missing or its name is unsafe; the manifest is not one that
            readers accept; a component is not the bundle that the manifest says; the disk is full or cannot be written.
    """
    place = absolute(out)
    check_path_set(contents, where=f"the plan for {out}")
    found = check_destination(place, manifest.build_key, force)
    needed = sum(content_size(name, content) for name, content in contents.items())
    folder = temporary(place)
    with undone(partial(remove_tree, folder)):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _check_space(out, needed)
            _fill(folder, manifest, contents)
            _move_into_place(folder, place, replacing=found != "new")
        except OSError as error:
            raise write_error(error, out, needed=needed, hint=_HINT) from error
    return out


def content_size(name: str, content: Content) -> int:
    """Bytes of what goes into the bundle as `name`. ExportError where it is no file."""
    if isinstance(content, bytes):
        return len(content)
    path = content.path if isinstance(content, Recorded) else content
    if not path.is_file():
        raise ExportError(f"{path}, which goes into the bundle as {name}, is no file", hint="build again")
    return path.stat().st_size


def _check_space(out: Path, needed: int) -> None:
    """Before the copy: minutes of writing should not end in a full disk."""
    if free_bytes(absolute(out)) < needed + _MARGIN:
        raise disk_full(out, needed=needed, hint=_HINT)


def _fill(folder: Path, manifest: Manifest, contents: Mapping[str, Content]) -> None:
    folders = sorted({parent for name in contents for parent in parents(name)})
    for each in ("", *folders):
        (folder / each).mkdir()
    files = {name: _put(content, folder / name) for name, content in sorted(contents.items())}
    data = replace(manifest, files=files).to_bytes()
    _check_readable(Manifest.from_bytes(data, where=MANIFEST), folder)
    write_durably(data, folder / MANIFEST)
    for each in (*reversed(folders), ""):
        flush_path(folder / each)


def _check_readable(written: Manifest, folder: Path) -> None:
    """What the reader would refuse must never ship: a component may have changed since it was opened."""
    for role, entry in written.components.items():
        path = folder / entry.path / MANIFEST
        check_component(written, role, Manifest.from_bytes(read_bounded(path), where=path), where=path)


def _put(content: Content, target: Path) -> FileEntry:
    if isinstance(content, bytes):
        digest, size = write_durably(content, target)
    else:
        path = content.path if isinstance(content, Recorded) else content
        digest, size = copy_durably(path, target)
        if isinstance(content, Recorded) and digest != content.sha256:
            raise DamagedFile(path, hint="build again: it is made again where it came from")
    return FileEntry(sha256=digest, size=size)


def _move_into_place(folder: Path, out: Path, *, replacing: bool) -> None:
    old = aside(out)
    with undone(partial(settle_old, old, out)):
        if replacing:
            out.rename(old)
        folder.rename(out)  # fails, as it should, where someone put a folder there since the check
        flush_path(out.parent)
