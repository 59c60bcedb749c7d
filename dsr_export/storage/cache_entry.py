"""One entry of the cache: a stage's files and the sealed record of their checksums, by which damage is found.

The record also says where the entry belongs, `<stage>/<key digest>`: one that was moved is damaged, and so is not ours.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError
from dsr_export.storage.canonical import parse_sealed, read_bounded, sealed_bytes
from dsr_export.storage.disk import flush_path, write_durably
from graphs.digests import files_digest

LARGEST_HASHED = 64 << 20  # bytes; a hit checks larger files by size alone, and they are hashed where they are used
RECORD = ".stage.json"
KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class FileRecord:
    """What a stage wrote into one of its files."""

    sha256: str
    size: int


Files = Mapping[str, FileRecord]  # by the path inside the entry


def record_files(folder: Path, entry: Path) -> Files:
    """Flushes the files of a finished stage in `folder`, which becomes `entry`, and writes their record.

    Raises OSError, and ExportError for what is neither a file nor a folder.
    """
    files: dict[str, FileRecord] = {}
    for path, size in sorted(_files(folder)):
        flush_path(path)
        files[path.relative_to(folder).as_posix()] = FileRecord(files_digest([path]), size)
    listed = {name: {"sha256": file.sha256, "size": file.size} for name, file in files.items()}
    write_durably(sealed_bytes({"entry": _place(entry), "files": listed}), folder / RECORD)
    flush_path(folder)
    return files


def intact_files(entry: Path) -> Files | None:
    """The recorded files of an entry; None where it is missing, or anything about it is not as recorded."""
    try:
        files = _recorded(entry)
        sizes = {path.relative_to(entry).as_posix(): size for path, size in _files(entry) if path != entry / RECORD}
        if sizes != {name: file.size for name, file in files.items()}:
            return None
        hashed = [name for name, size in sizes.items() if size <= LARGEST_HASHED]
        return files if all(files_digest([entry / name]) == files[name].sha256 for name in hashed) else None
    except (OSError, ExportError):
        return None


def large_file_damaged(entry: Path, files: Files) -> Path | None:
    """The first of the files that `intact_files` checks by size alone whose bytes are not the recorded ones."""
    large = (name for name, file in files.items() if file.size > LARGEST_HASHED)
    return next((entry / name for name in large if files_digest([entry / name]) != files[name].sha256), None)


def is_entry(path: Path) -> bool:
    """Whether a folder is an entry of the cache, by its name and its record: all else belongs to the user."""
    if KEY.fullmatch(path.name) is None:
        return False
    try:
        _recorded(path)
    except (OSError, ExportError):
        return False
    return True


def entry_size(entry: Path) -> int:
    """Bytes an entry takes, damaged or not. Raises OSError where it disappears meanwhile."""
    return sum(path.lstat().st_size for path in entry.rglob("*"))


def _recorded(entry: Path) -> Files:
    """The record's files, of a record that belongs here. Raises OSError and ExportError."""
    record = entry / RECORD
    if not stat.S_ISDIR(entry.lstat().st_mode) or not stat.S_ISREG(record.lstat().st_mode):
        raise ExportError(f"{entry} is no folder with a record")
    content = parse_sealed(read_bounded(record), where=record)
    if content.get("entry") != _place(entry):
        raise ExportError(f"{record} belongs to another entry")
    return _file_records(content.get("files"), record)


def _file_records(listed: Any, record: Path) -> Files:
    if not isinstance(listed, dict):
        raise ExportError(f"{record} lists no files")
    files: dict[str, FileRecord] = {}
    for name, file in listed.items():
        if not isinstance(file, dict) or type(file.get("sha256")) is not str or type(file.get("size")) is not int:
            raise ExportError(f"{record} says nothing of {name!r}")
        files[name] = FileRecord(file["sha256"], file["size"])
    return files


def _place(entry: Path) -> str:
    """The stage's name and the digest of the key."""
    return f"{entry.parent.name}/{entry.name}"


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Regular files below `folder` with their sizes. ExportError for all else: links would escape the checksums."""
    for path in folder.rglob("*"):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode):
            yield path, found.st_size
        elif not stat.S_ISDIR(found.st_mode):
            kind = "a link" if stat.S_ISLNK(found.st_mode) else "no regular file"
            raise ExportError(f"{path} is {kind}, which the cache does not keep")
