"""One entry of the cache: a stage's files and the sealed record of their checksums, by which damage is found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dsr_export.bundle.canonical import parse_sealed, read_bounded, sealed_bytes
from dsr_export.disk import flush_path, write_durably
from dsr_export.errors import ExportError
from graphs.artifacts import files_digest

LARGEST_HASHED = 64 << 20  # bytes; larger files of an entry are checked by size alone, or a hit would cost seconds
RECORD = ".stage.json"

Files = Mapping[str, Any]  # path in the entry -> {"sha256", "size"}


def record_files(folder: Path) -> Files:
    """Flushes the files of a finished stage and writes their record. Raises OSError, and ExportError for a link."""
    files: dict[str, Any] = {}
    for path, size in sorted(_files(folder)):
        flush_path(path)
        files[path.relative_to(folder).as_posix()] = {"sha256": files_digest([path]), "size": size}
    write_durably(sealed_bytes({"files": files}), folder / RECORD)
    flush_path(folder)
    return files


def intact_files(entry: Path) -> Files | None:
    """The recorded files of an entry; None where it is missing, or anything about it is not as recorded."""
    record = entry / RECORD
    try:
        files: Files = parse_sealed(read_bounded(record), where=record)["files"]
        sizes = {path.relative_to(entry).as_posix(): size for path, size in _files(entry) if path != record}
        if sizes != {name: recorded["size"] for name, recorded in files.items()}:
            return None
        hashed = [name for name, size in sizes.items() if size <= LARGEST_HASHED]
        return files if all(files_digest([entry / name]) == files[name]["sha256"] for name in hashed) else None
    except (OSError, ExportError):
        return None


def entry_size(entry: Path) -> int:
    """Bytes an entry takes, damaged or not. Raises OSError where it disappears meanwhile."""
    return sum(path.lstat().st_size for path in entry.rglob("*"))


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Regular files below `folder` with their sizes. ExportError for a link, which would escape the checksums."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise ExportError(f"{path} is a link, which the cache does not keep")
        if path.is_file():
            yield path, path.stat().st_size
