"""Reads an npz that someone else may have made: no pickle, and no more memory than its table of contents admits to."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError

Array = npt.NDArray[Any]
LARGEST_TOTAL = 4 << 30  # bytes, unpacked
MOST_MEMBERS = 4096
UNPACKED_ANYWAY = 256 << 20  # bytes; beyond these, what shrinks as no reference values do is a trap
HIGHEST_RATIO = 100
LONGEST_REASON = 300

_HINT = "build the bundle again"
_ZIP_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)
_HEADER_ERRORS = (  # numpy parses the header as a Python literal
    *(SyntaxError, TypeError, MemoryError, TokenError, RecursionError),
    *(LookupError, AttributeError, ArithmeticError),
)
_KINDS = "biufc"  # bool, integers, floats, complex: no objects, no strings
_ARRAY = b"\x93NUMPY"
_CHUNK = 16 << 20


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_npz(path: Path, *, hint: str = _HINT) -> dict[str, Array]:
    """All arrays of an npz by name, of the types that are stored.

    Raises:
        ExportError: it is no npz, is damaged, holds objects, or would unpack to more than `LARGEST_TOTAL` bytes, to
            far more than its own size, or to more than it declares.
    """
    return _through(path, hint, _read)


def declared_arrays(path: Path, *, hint: str = _HINT) -> dict[str, Array]:
    """What `read_npz` would give, of the right shapes and types, but of zeros that take no memory.

    Raises what that does, but for damage to the values.
    """
    return _through(path, hint, _stand_in)


def _through(path: Path, hint: str, read: Callable[[IO[bytes], _Header], Array]) -> dict[str, Array]:
    try:
        if not path.is_file():
            raise FileNotFoundError("no such file" if not path.exists() else "it is no regular file")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members, hint)
            arrays = {}
            for member in members:
                with archive.open(member) as stream:
                    arrays[member.filename.removesuffix(".npy")] = read(stream, _header(stream, member))
            return arrays
    except (*_ZIP_ERRORS, *_HEADER_ERRORS) as error:
        single = path.is_file() and _is_array(path)
        reason = "it is a single array (.npy)" if single else str(error)[:LONGEST_REASON] or type(error).__name__
        raise ExportError(f"{path} is no readable npz: {reason}", hint=hint) from error


def _check_members(path: Path, members: list[zipfile.ZipInfo], hint: str) -> None:
    total, names = sum(member.file_size for member in members), {member.filename for member in members}
    if total > LARGEST_TOTAL:
        raise ExportError(f"{path} unpacks to {total} bytes, more than the {LARGEST_TOTAL} allowed", hint=hint)
    if total > max(UNPACKED_ANYWAY, HIGHEST_RATIO * path.stat().st_size):
        raise ExportError(f"{path} unpacks to {total} bytes, far more than its own size", hint=hint)
    if len(members) > MOST_MEMBERS or len(names) != len(members):
        raise ExportError(f"{path} holds too many arrays, or two of one name", hint=hint)
    for member in members:
        if not member.filename.endswith(".npy"):
            raise ExportError(f"{path} holds {member.filename[:80]!r}, which is no array", hint=hint)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ExportError(f"{path} is packed in a way that numpy does not use", hint=hint)


def _header(stream: IO[bytes], member: zipfile.ZipInfo) -> _Header:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version}")
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header = _Header(*reader(stream))
    name = member.filename[:80]
    if header.dtype.kind not in _KINDS or header.dtype.subdtype is not None:
        raise ValueError(f"{name!r} has the type {header.dtype}, expected numbers")
    if any(size < 0 for size in header.shape):
        raise ValueError(f"{name!r} declares the shape {list(header.shape)}")
    if member.file_size - stream.tell() != header.size:
        raise ValueError(f"{name!r} declares {header.size} bytes and does not hold exactly these")
    return header


def _read(stream: IO[bytes], header: _Header) -> Array:
    data = bytearray(header.size)  # it makes the array writable; runtimes warn about others
    view, done = memoryview(data), 0
    while done < header.size:
        chunk = stream.read(min(header.size - done, _CHUNK))
        if not chunk:
            raise EOFError("it ends within an array")
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    if stream.read(1):  # the checksum is compared at the end, too
        raise ValueError("it holds more than it declares")
    array: Array = np.ndarray(header.shape, header.dtype, data, order="F" if header.fortran else "C")
    return array


def _stand_in(_: IO[bytes], header: _Header) -> Array:
    return np.broadcast_to(np.zeros((), header.dtype), header.shape)


def _is_array(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(_ARRAY)) == _ARRAY
    except OSError:
        return False
