"""Reads an npz that someone else may have made: no pickle, and no more memory than its table of contents admits to."""

from __future__ import annotations

import math
import zipfile
import zlib
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

_HINT = "build the bundle again"
_ZIP_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
_HEADER_ERRORS = (SyntaxError, TypeError, MemoryError, TokenError)  # numpy parses the header as a Python literal
_KINDS = "biufc"  # bool, integers, floats, complex: no objects, no strings


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of an npz, by name.

    Raises:
        ExportError: it is no npz, is damaged, holds objects, or would unpack to more than `LARGEST_TOTAL` bytes, to
            far more than its own size, or to more than it declares.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            return {member.filename.removesuffix(".npy"): _read(archive, member) for member in members}
    except (*_ZIP_ERRORS, *_HEADER_ERRORS) as error:
        raise ExportError(f"{path} is no readable npz: {error}", hint=_HINT) from error


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    total, names = sum(member.file_size for member in members), {member.filename for member in members}
    if total > LARGEST_TOTAL:
        raise ExportError(f"{path} unpacks to {total} bytes, more than the {LARGEST_TOTAL} allowed", hint=_HINT)
    if total > max(UNPACKED_ANYWAY, HIGHEST_RATIO * path.stat().st_size):
        raise ExportError(f"{path} unpacks to {total} bytes, far more than its own size", hint=_HINT)
    if len(members) > MOST_MEMBERS or len(names) != len(members):
        raise ExportError(f"{path} holds too many arrays, or two of one name", hint=_HINT)
    for member in members:
        if not member.filename.endswith(".npy"):
            raise ExportError(f"{path} holds {member.filename[:80]!r}, which is no array", hint=_HINT)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ExportError(f"{path} is packed in a way that numpy does not use", hint=_HINT)


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as stream:
        shape, fortran, dtype = _header(stream)
        if dtype.kind not in _KINDS:
            raise ValueError(f"{member.filename[:80]!r} has the type {dtype}, expected numbers")
        size = math.prod(shape) * dtype.itemsize
        data = stream.read(size + 1)  # no more than the member has; one more, as the checksum is compared at the end
    if len(data) != size:
        raise ValueError(f"{member.filename[:80]!r} declares {size} bytes and does not hold exactly these")
    # A bytearray makes the array writable; runtimes warn about others.
    return np.ndarray(shape, dtype, bytearray(data), order="F" if fortran else "C")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"npy version {version}")
