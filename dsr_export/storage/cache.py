"""Stage results by content: the same inputs, options and tools are built once. Damaged entries are built again.

An entry is `<root>/<stage>/<key digest>/`: what the stage wrote, and a sealed record of its files and checksums.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError
from dsr_export.storage.cache_entry import (
    KEY,
    Files,
    entry_size,
    intact_files,
    is_entry,
    large_file_damaged,
    record_files,
)
from dsr_export.storage.canonical import canonical_digest
from dsr_export.storage.disk import (
    Recorded,
    is_disk_full,
    process_alive,
    remove_tree,
    this_machine,
    write_error,
)
from dsr_export.storage.leftovers import undone

VARIABLE = "DSR_EXPORT_CACHE"
MAX_TOTAL = 20 << 30  # bytes
IN_USE = 3600.0  # seconds since its last use in which an entry may belong to a running build
FORMAT = 2  # part of every key; raise it when the layout of an entry changes

_HINT = f"free some space or fix the permissions, or point {VARIABLE} at another folder"
_STAGE = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)


@dataclass(frozen=True)
class CachedStage:
    """A stage's folder. `digest` is that of its contents: key the next stage by it. Do not write into `path`.

    `remade` says that a damaged entry was in its place.
    """

    path: Path
    cached: bool
    seconds: float
    digest: str
    files: Files
    remade: bool = False

    def file(self, name: str) -> Recorded:
        """The file `name` that the stage wrote, with its checksum. KeyError where it wrote none."""
        return Recorded(self.path / name, self.files[name].sha256)

    def damaged_file(self) -> Path | None:
        """A file whose bytes are not what the stage wrote; only those are read that a hit checks by size alone."""
        try:
            return large_file_damaged(self.path, self.files) if self.cached else None
        except OSError:
            return self.path


@dataclass(frozen=True)
class StageCache:
    """The cache in the folder `root`, which is made when it is first written to."""

    root: Path

    @classmethod
    def default(cls) -> StageCache:
        """The user's cache; see `cache_root`."""
        return cls(cache_root())

    def run(self, stage: str, key: Mapping[str, Any], produce: Callable[[Path], None]) -> CachedStage:
        """The entry of `stage` for `key` (JSON values), written by `produce(folder)` unless it is there and intact.

        What `produce` raises passes through, and leaves nothing behind. Afterwards old entries are pruned.

        Raises:
            ExportError: `key` is no JSON; the disk is full; the cache cannot be written.
        """
        began = time.monotonic()
        if not _STAGE.fullmatch(stage):
            raise ExportError(f"{stage!r} is no name for a stage")
        entry = self.root / self.place(stage, key)
        files = intact_files(entry)
        found, damaged = files is not None, files is None and os.path.lexists(entry)
        if files is None:
            files = self._produced(entry, produce)
        with suppress(OSError):  # a cache that is only read is fine
            os.utime(entry)
        if not found:
            self.prune()
        return CachedStage(entry, found, time.monotonic() - began, _digest(files), files, remade=damaged)

    def place(self, stage: str, key: Mapping[str, Any]) -> str:
        """Where in the cache the entry of `stage` for `key` is, or would be."""
        return f"{stage}/{canonical_digest({'format': FORMAT, 'stage': stage, 'key': dict(key)})}"

    def has(self, place: str) -> bool:
        """Whether there is an intact entry."""
        return intact_files(self.root / place) is not None

    def drop(self, stage: CachedStage) -> None:
        """Throws away a stage whose files were found damaged."""
        self._drop(stage.path)

    def prune(self, max_bytes: int = MAX_TOTAL, *, unused_for: float = IN_USE) -> int:
        """Drops the entries used longest ago until `max_bytes` hold; returns the bytes freed.

        Entries used in the last `unused_for` seconds stay: another build may be reading them.
        """
        entries = sorted(self._entries())
        if sum(size for _, _, size in entries) <= max_bytes:  # mostly; reading every record would take a second
            return 0
        entries = [each for each in entries if is_entry(each[1])]
        excess, freed, newest = sum(size for _, _, size in entries) - max_bytes, 0, time.time() - unused_for
        for used, entry, size in entries:
            if freed >= excess or used > newest:
                break
            self._drop(entry)
            freed += size
        return freed

    def _produced(self, entry: Path, produce: Callable[[Path], None]) -> Files:
        folder = self._temporary(entry)
        with undone(partial(remove_tree, folder)):
            self._prepare(entry, folder)
            _run_produce(produce, folder, entry)
            return self._publish(folder, entry)

    def _prepare(self, entry: Path, folder: Path) -> None:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            folder.mkdir()
        except OSError as error:
            raise write_error(error, self.root, hint=_HINT) from error

    def _publish(self, folder: Path, entry: Path) -> Files:
        """Records and renames; where another build was faster, its entry counts."""
        try:
            files = record_files(folder, entry)
            with suppress(OSError):
                folder.rename(entry)
                return files
            if (winner := intact_files(entry)) is not None:
                return winner
            self._drop(entry)  # it is damaged
            folder.rename(entry)
        except OSError as error:
            raise write_error(error, entry, hint=_HINT) from error
        return files

    def _temporary(self, entry: Path) -> Path:
        return self.root / f".{entry.name[:16]}.{this_machine()}.{os.getpid()}.{secrets.token_hex(4)}.tmp"

    def _remove_leftovers(self) -> None:
        """What killed builds of this machine left; processes of another (a shared folder) cannot be asked."""
        pattern = re.compile(rf"\.[0-9a-f]{{16}}\.{this_machine()}\.([0-9]{{1,19}})\.[0-9a-f]{{8}}\.tmp")
        for path in self.root.iterdir():
            match = pattern.fullmatch(path.name)
            if match and not path.is_symlink() and not process_alive(int(match[1])):
                remove_tree(path)

    def _entries(self) -> Iterator[tuple[float, Path, int]]:
        """When what may be an entry, by its place, was last used, where it is, and its size in bytes."""
        for stage in _listing(self.root):
            for entry in _listing(stage) if _STAGE.fullmatch(stage.name) and not stage.is_symlink() else ():
                with suppress(OSError):  # dropped by another build just now
                    if KEY.fullmatch(entry.name):
                        yield entry.lstat().st_mtime, entry, entry_size(entry)

    def _drop(self, entry: Path) -> None:
        """Renamed first, so that no other build meets half an entry."""
        aside = self._temporary(entry)
        with suppress(OSError):
            entry.rename(aside)
        if aside.is_symlink() or not aside.is_dir():
            aside.unlink(missing_ok=True)
        remove_tree(aside)


def _listing(folder: Path) -> list[Path]:
    """What is in `folder`; nothing where another build removed it meanwhile."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _digest(files: Files) -> str:
    return canonical_digest({name: file.sha256 for name, file in files.items()})


def cache_root() -> Path:
    """`$DSR_EXPORT_CACHE`, else `$XDG_CACHE_HOME/dsr-export`, else `~/.cache/dsr-export`.

    Raises:
        ExportError: there is no home folder.
    """
    try:
        if chosen := os.environ.get(VARIABLE):
            return Path(chosen).expanduser().absolute()
        base = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "dsr-export"
    except RuntimeError as error:
        raise ExportError(f"no folder for the cache: {error}", hint=f"set {VARIABLE} to a folder") from error


def _run_produce(produce: Callable[[Path], None], folder: Path, entry: Path) -> None:
    try:
        produce(folder)
    except OSError as error:
        if is_disk_full(error):
            raise write_error(error, entry, hint=_HINT) from error
        raise
