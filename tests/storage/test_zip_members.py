"""ZIP files with more than one reading are refused, whatever their members hold."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import pytest

from dsr_export.program_archive.findings import MalformedError
from dsr_export.storage.zip_members import Members, read_members
from tests.program_archive.forged import honest, members_of, zipped

PLAIN = {"a": b"alpha", "b": b"beta" * 100, "c": b""}


def _read(content: bytes) -> Members:
    return read_members(io.BytesIO(content))


def test_torchs_archive_and_pythons() -> None:
    for archive, expected in ((honest(), members_of(honest())), (zipped(PLAIN), PLAIN)):
        members = _read(archive)
        got = {name.partition("/")[2]: members.read(name, most=1 << 20) for name in members.by_name}
        assert got == expected


def test_64_bit_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """As zipfile writes them, once its limits are those of a small file."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 3)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    members = _read(zipped(PLAIN))
    assert {name: members.read(name, most=1000) for name in members.by_name} == {
        f"m/{name}": content for name, content in PLAIN.items()
    }


def _encrypted(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[6] |= 1
    changed[changed.index(b"PK\1\2") + 8] |= 1
    return bytes(changed)


def _at_directory(offset: int, form: str, value: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        struct.pack_into(form, changed, content.index(b"PK\1\2") + offset, value)
        return bytes(changed)

    return change


def _commented(content: bytes) -> bytes:
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.comment = b"PK\5\6"
    return stream.getvalue()


def _doubled(content: bytes) -> bytes:
    stream = io.BytesIO(content)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("m/a", b"other")
    return stream.getvalue()


ODD: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-30],
    "bytes in front": lambda content: b"x" * 7 + content,
    "another in front": lambda content: zipped({"a": b"other"}) + content,
    "bytes behind": lambda content: content + b"\0",
    "comment": _commented,
    "two of a name": _doubled,
    "two that differ in case": lambda content: zipped({**PLAIN, "A": b"other"}),
    "a gap": lambda content: content.replace(b"PK\1\2", b"\0PK\1\2", 1),
    "encrypted": _encrypted,
    "deflated": lambda content: zipped(PLAIN, method=zipfile.ZIP_DEFLATED),
    "bzip2": lambda content: zipped(PLAIN, method=zipfile.ZIP_BZIP2),
    "unknown method": _at_directory(10, "<H", 99),
    "another size": _at_directory(24, "<L", 4),
    "both sizes": lambda content: _at_directory(20, "<L", 4)(_at_directory(24, "<L", 4)(content)),
    "another name": _at_directory(46 + 2, "<B", ord("z")),
    "name that is no UTF-8": _at_directory(46 + 2, "<B", 0xFF),
    "another checksum": _at_directory(16, "<L", 1),
    "another start": _at_directory(42, "<L", 1),
    "size left to a field that is missing": _at_directory(24, "<L", 0xFFFFFFFF),
    "far start": _at_directory(42, "<L", 0xFFFFFFF0),
    "no members": lambda content: zipped({}),
}


@pytest.mark.parametrize("odd", ODD)
def test_only_one_reading(odd: str) -> None:
    content = ODD[odd](zipped(PLAIN))
    with pytest.raises((MalformedError, UnicodeDecodeError)):
        _read(content)


def test_damage_within_a_member_is_noticed() -> None:
    content = bytearray(zipped(PLAIN))
    content[content.index(b"beta") + 9] ^= 1
    members = _read(bytes(content))
    with pytest.raises(MalformedError, match="'m/b' is damaged"):
        members.read("m/b", most=1000)
    with pytest.raises(MalformedError, match="'m/a' has 5 bytes, more than 4"):
        members.read("m/a", most=4)
