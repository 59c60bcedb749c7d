"""Files by what is in them, and records by name, where every machine of a cluster reaches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError
from dsr_export.storage.atomic import atomic_file
from dsr_export.storage.canonical import parse_sealed, sealed_bytes
from dsr_export.storage.disk import is_disk_full, remove_tree, write_error
from dsr_export.storage.leftovers import file_name, folder_beside, remove_leftovers
from graphs.digests import files_digest

OBJECTS, RECORDS = "objects", "records"
_AGAIN = "run the same command again: it is made again"


class Damaged(ExportError):
    """What a record names is not there, or is not what it was: whoever made it can make it again."""


class Storage:
    """In the folder `url`: a path, or anything that `fsspec` has a file system for. What lies there is whole.

    Raises ExportError for a URL that cannot be opened, and where something cannot be read or written.
    """

    def __init__(self, url: str) -> None:
        # a path means the same in every process only where it is whole
        self.url = url if "://" in url else Path(url).resolve().as_uri()
        try:
            from fsspec.core import url_to_fs
            from fsspec.implementations.local import LocalFileSystem

            if "://" in url:
                self._files, self._root = url_to_fs(url)
            else:
                import fsspec

                self._files, self._root = fsspec.filesystem("file", auto_mkdir=True), str(Path(url).resolve())
        except (ImportError, ValueError, OSError) as error:
            hint = "give a path that all machines share, or the URL of a storage with its package, such as s3fs"
            raise ExportError(f"there is no storage at {url}: {error}", hint=hint) from error
        self._on_disk = isinstance(self._files, LocalFileSystem)

    def put(self, path: Path) -> str:
        """Its sha256, once it is there."""
        digest = files_digest([path])
        if not self._is_file(self._object(digest)):
            self._written(self._object(digest), path)
        return digest

    def put_folder(self, folder: Path) -> dict[str, str]:
        """Every file in it: its path there -> its sha256."""
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): self.put(path) for path in found}

    def get(self, digest: str, path: Path) -> None:
        """Writes it to `path`, if it is what it is said to be."""
        with atomic_file(path) as temporary:
            self._fetch(digest, temporary)

    def _fetch(self, digest: str, path: Path) -> None:
        try:
            self._files.get_file(self._object(digest), str(path))
        except FileNotFoundError as error:
            raise Damaged(f"{self.url}: {digest[:16]}... is missing", hint=_AGAIN) from error
        except OSError as error:
            if is_disk_full(error):
                raise  # of this machine
            if not self._is_folder(self._object(digest)):
                raise self._unreadable(error) from error
        if path.is_file() and files_digest([path]) == digest:
            return
        remove_tree(path)  # of an object that has become a folder, some file systems make one
        self._remove(self._object(digest))  # else it would never be written again
        raise Damaged(f"{self.url}: {digest[:16]}... is damaged", hint=_AGAIN)

    def get_folder(self, files: Mapping[str, str], folder: Path) -> None:
        """The inverse of `put_folder`, in place of what is at `folder`.

        Raises Damaged once every file was tried: those that are not what they were are gone from the storage then.
        """
        try:
            with folder_beside(folder) as aside:
                self._get_files(files, aside)
                remove_tree(folder)
                aside.rename(folder)
        except OSError as error:
            raise write_error(error, folder, hint="check the folder and its space") from error

    def _get_files(self, files: Mapping[str, str], folder: Path) -> None:
        damaged: list[Damaged] = []
        for name, digest in files.items():
            place = folder / name
            if not place.resolve().is_relative_to(folder.resolve()):
                raise ExportError(f"{self.url}: a record names the file {name!r}", hint="remove the storage")
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.get(digest, place)
            except Damaged as error:
                damaged.append(error)
        if damaged:
            raise damaged[0]

    def put_record(self, name: str, value: Mapping[str, Any]) -> None:
        """`name` is a path of plain words; an earlier record is replaced."""
        place = f"{self._root}/{RECORDS}/{name}.json"
        try:
            self._put_bytes(place, sealed_bytes(value))
        except OSError as error:
            raise self._unwritable(error) from error

    def record(self, name: str) -> dict[str, Any] | None:
        """None where there is none, or what is there is none."""
        place = f"{self._root}/{RECORDS}/{name}.json"
        try:
            self._files.invalidate_cache()
            data = self._files.cat_file(place)
        except FileNotFoundError:
            return None
        except OSError as error:
            if self._is_folder(place):
                return None
            raise self._unreadable(error) from error
        with suppress(ExportError):
            return parse_sealed(data, where=place)
        return None

    def drop_record(self, name: str) -> None:
        """The next one who asks finds none."""
        with suppress(OSError):
            self._files.rm(f"{self._root}/{RECORDS}/{name}.json", recursive=True)

    def _object(self, digest: str) -> str:
        return f"{self._root}/{OBJECTS}/{digest[:2]}/{digest}"

    def _is_file(self, place: str) -> bool:
        try:
            return bool(self._files.isfile(place))
        except OSError as error:
            raise self._unreadable(error) from error

    def _is_folder(self, place: str) -> bool:
        with suppress(OSError):
            return bool(self._files.isdir(place))
        return False

    def _remove(self, place: str) -> None:
        """A file, or a folder in its place."""
        try:
            self._files.rm(place, recursive=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def _written(self, place: str, path: Path) -> None:
        """Whole or not at all, where the storage can rename."""
        try:
            self._moved(place, lambda temporary: self._files.put_file(str(path), temporary))
        except OSError as error:
            raise self._unwritable(error) from error

    def _put_bytes(self, place: str, data: bytes) -> None:
        self._moved(place, lambda temporary: self._files.pipe_file(temporary, data))

    def _moved(self, place: str, write: Callable[[str], None]) -> None:
        folder = place.rpartition("/")[0]
        self._files.makedirs(folder, exist_ok=True)
        if self._on_disk:  # elsewhere nobody's leftovers are told from what is being written
            remove_leftovers(Path(folder))
        temporary = f"{folder}/{file_name()}"
        write(temporary)
        if self._is_folder(place):  # else it would be moved into that
            self._remove(place)
        self._files.mv(temporary, place)

    def _unreadable(self, error: OSError) -> ExportError:
        return ExportError(f"can't read the storage {self.url}: {error}", hint="check its address and its rights")

    def _unwritable(self, error: OSError) -> ExportError:
        return ExportError(f"can't write to the storage {self.url}: {error}", hint="check its space and its rights")
