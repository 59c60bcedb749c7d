"""What a zip of torch's may be before torch opens it: stored members, one of each name, and a small pickle.

torch maps members into memory where they lie, so compressed ones would be read as weights.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from dsr_export.errors import ExportError
from dsr_export.storage.zip_members import read_members

MOST_MEMBERS = 1_000_000
LARGEST_PICKLE = 64 << 20  # bytes; a thousand tensors take 100 kB
_HINT = "save it with torch.save"
_ON_DAMAGE = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, LookupError, struct.error)
_LOCAL = b"PK\x03\x04"
_FILLED = b"bytearray"  # the one constructor, of those that torch allows, that takes a length and fills memory


def member_names(path: Path) -> list[str]:
    """The names in a zip archive; none for another file, or a damaged one, of which its reader will tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except _ON_DAMAGE:
        return []


def is_zip(path: Path) -> bool:
    """Whether torch's reader, which goes by the first bytes, or Python's, which goes by the last, takes it for one."""
    with path.open("rb") as stream:
        if stream.read(len(_LOCAL)) == _LOCAL:
            return True
    try:
        return zipfile.is_zipfile(path)
    except _ON_DAMAGE:
        return False


def check_archive(path: Path) -> None:
    """Raises ExportError for a zip that torch.save does not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            pickles = [member for member in members if member.filename.endswith("data.pkl")]
            if any(_FILLED in archive.read(member) for member in pickles):
                raise ExportError(f"{path} is refused: it holds a bytearray", hint=_HINT)
        with path.open("rb") as stream:  # torch looks for the directory elsewhere: there must be one reading only
            read_members(stream)
    except _ON_DAMAGE as error:
        reason = str(error)[:200] or type(error).__name__
        raise ExportError(f"{path} is no readable PyTorch checkpoint: {reason}", hint=_HINT) from error


def check_legacy(path: Path, head: int) -> None:
    """The same for the form before zip, whose pickles begin the file: `head` bytes of it are looked at."""
    with path.open("rb") as stream:
        if _FILLED in stream.read(head):
            raise ExportError(f"{path} is refused: it holds a bytearray", hint=_HINT)


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MOST_MEMBERS or len({member.filename for member in members}) != len(members):
        raise ExportError(f"{path} holds too many members, or two of one name", hint=_HINT)
    for member in members:
        name = member.filename[:80]
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ExportError(f"{path}: '{name}' is compressed, as torch.save writes none", hint=_HINT)
        if member.flag_bits & 1:
            raise ExportError(f"{path}: '{name}' is encrypted", hint="decrypt it, and save it with torch.save")
        if name.endswith(".pkl") and member.file_size > LARGEST_PICKLE:
            raise ExportError(f"{path}: '{name}' has {member.file_size} bytes, more than any model needs", hint=_HINT)
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ExportError(f"{path} holds members that overlap", hint=_HINT)
