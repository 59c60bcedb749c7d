"""The members of a ZIP file that has exactly one reading: no gaps, no overlaps, no second directory, nothing packed.

Readers of ZIP files differ in where they look for the directory and which of two headers they believe, and a file made
for that difference shows each of them another content. So every byte of the file must be accounted for, both headers
of a member must agree, and members must be stored as they are (torch packs nothing, and what isn't packed cannot grow).
Source: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

MOST_MEMBERS = 1_000_000
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_UNSAID = 0xFFFFFFFF  # the 64-bit field holds the value
_TRAILED, _UTF_8 = 1 << 3, 1 << 11  # flags: sizes and checksum follow the content; the name is UTF-8


class MalformedError(ValueError):
    """It is not what torch writes."""


@dataclass(frozen=True)
class Member:
    """Where a stored member lies, and its checksum."""

    name: str
    header: int
    size: int
    crc: int
    flags: int


@dataclass(frozen=True)
class Members:
    """The members of `stream`, by name, and where the content of each starts."""

    stream: BinaryIO
    by_name: dict[str, tuple[Member, int]]

    def read(self, name: str, *, most: int) -> bytes:
        """The content of a member. Raises MalformedError where it is larger than `most`, or damaged."""
        member, _ = self.by_name[name]
        if member.size > most:
            raise MalformedError(f"'{name}' has {member.size} bytes, more than {most}")
        content = bytearray(member.size)
        self.read_into(name, memoryview(content))
        return bytes(content)

    def read_into(self, name: str, content: memoryview) -> None:
        """Fills `content`, as large as the member. Raises MalformedError where the member is damaged."""
        member, start = self.by_name[name]
        self.stream.seek(start)
        crc, done = 0, 0
        while done < member.size:
            part = content[done : done + (1 << 22)]
            if self.stream.readinto(part) != len(part):  # type: ignore[attr-defined]
                raise MalformedError(f"'{name}' ends early")
            crc, done = zlib.crc32(part, crc), done + len(part)
        if crc != member.crc:
            raise MalformedError(f"'{name}' is damaged: its checksum differs")


def read_members(stream: BinaryIO) -> Members:
    """Where the members of the ZIP file `stream` lie; reads headers only.

    Raises:
        MalformedError: any byte that belongs to no member or header, headers that disagree, two names that differ at
            most in case, members that are packed or encrypted.
    """
    start, length, count = _directory(stream)
    members = _entries(_at(stream, start, length), count)
    if len({member.name.lower() for member in members}) != len(members):
        raise MalformedError("two members have the same name")
    found, at = {}, 0
    for member in sorted(members, key=lambda each: each.header):
        content, at = _placed(stream, member, at)
        found[member.name] = member, content
    if at != start:
        raise MalformedError("there are bytes that belong to no member")
    return Members(stream, found)


def _at(stream: BinaryIO, start: int, length: int) -> bytes:
    stream.seek(start)
    content = stream.read(length)
    if len(content) != length:
        raise MalformedError("it ends early")
    return content


def _directory(stream: BinaryIO) -> tuple[int, int, int]:
    """Start, length and number of entries of the directory, which must end where the end records begin."""
    size = stream.seek(0, 2)
    both = _END_64.size + _LOCATOR.size + _END.size
    tail = _at(stream, max(size - both, 0), min(size, both))
    if len(tail) < _END.size:
        raise MalformedError("it is no ZIP file")
    signature, disk, first, here, count, length, start, comment = _END.unpack(tail[-_END.size :])
    if signature != b"PK\5\6" or comment or disk or first or here != count:
        raise MalformedError("it is no ZIP file, or has bytes after its end")
    stop = size - _END.size
    if tail[:4] == b"PK\6\6" and len(tail) == both:
        start, length, count = _directory_64(tail, size - both, (start, length, count))
        stop = size - both
    if start + length != stop or not 0 < count <= MOST_MEMBERS or length > 1000 * count:
        raise MalformedError("its directory is not where its end record says, or too large")
    return start, length, count


def _directory_64(tail: bytes, at: int, short: tuple[int, int, int]) -> tuple[int, int, int]:
    _, rest, _, _, disk, first, here, count, length, start = _END_64.unpack_from(tail)
    signature, _, where, disks = _LOCATOR.unpack_from(tail, _END_64.size)
    agree = all(a in (b, _UNSAID, 0xFFFF) for a, b in zip(short, (start, length, count), strict=True))
    if signature != b"PK\6\7" or where != at or disks != 1 or rest != _END_64.size - 12 or not agree:
        raise MalformedError("its two end records disagree")
    if disk or first or here != count:
        raise MalformedError("it is one part of several")
    return start, length, count


def _entries(directory: bytes, count: int) -> list[Member]:
    members, at = [], 0
    for _ in range(count):
        if at + _CENTRAL.size > len(directory):
            raise MalformedError("its directory ends early")
        signature, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, disk, _, _, header = (
            _CENTRAL.unpack_from(directory, at)
        )
        at += _CENTRAL.size
        rest = directory[at : at + name + extra]
        at += name + extra
        if signature != b"PK\1\2" or comment or disk or len(rest) != name + extra:
            raise MalformedError("its directory is damaged")
        size, packed, header = _long(rest[name:], (size, packed, header))
        called = rest[:name].decode()
        if flags & 1 or flags & ~(_TRAILED | _UTF_8):
            raise MalformedError(f"'{called}' is encrypted, or encoded in another way")
        if method or size != packed:
            raise MalformedError(f"'{called}' is compressed (method {method}), which torch never does")
        members.append(Member(called, header, size, crc, flags))
    if at != len(directory):
        raise MalformedError("its directory holds more than its members")
    return members


def _long(extra: bytes, short: tuple[int, int, int]) -> tuple[int, int, int]:
    """Size, packed size and header with what the 64-bit field (id 1) says of those that are left unsaid."""
    at, found = 0, b""
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            if found:
                raise MalformedError("a member has two 64-bit fields")
            found = extra[at + 4 : at + 4 + length]
        at += 4 + length
    wanted = sum(value == _UNSAID for value in short)
    if len(found) != 8 * wanted:
        raise MalformedError("a member's 64-bit field does not fit")
    long = iter(struct.unpack(f"<{wanted}Q", found))
    size, packed, header = (next(long) if value == _UNSAID else value for value in short)
    return size, packed, header


def _placed(stream: BinaryIO, member: Member, at: int) -> tuple[int, int]:
    """Where the content of `member` starts and its last byte ends; its header must be at `at` and say the same."""
    if member.header != at:
        raise MalformedError(f"'{member.name}' does not follow the member before it")
    signature, _, flags, method, _, _, crc, packed, size, name, extra = _LOCAL.unpack(_at(stream, at, _LOCAL.size))
    called = _at(stream, at + _LOCAL.size, name)
    trailed = bool(member.flags & _TRAILED)
    unsaid = (0, _UNSAID) if trailed else (_UNSAID,)
    sizes = all(value == member.size or value in unsaid for value in (size, packed))
    checksum = crc == member.crc or (trailed and crc == 0)
    same = signature == b"PK\3\4" and flags == member.flags and method == 0 and called == member.name.encode()
    if not (same and sizes and checksum):
        raise MalformedError(f"the two headers of '{member.name}' disagree")
    start = at + _LOCAL.size + name + extra
    end = start + member.size
    return start, _trailer_end(stream, member, end) if trailed else end


def _trailer_end(stream: BinaryIO, member: Member, at: int) -> int:
    for trailer in (struct.Struct("<4s3L"), struct.Struct("<4sL2Q")):
        content = _at(stream, at, trailer.size)
        if trailer.unpack(content) == (b"PK\7\b", member.crc, member.size, member.size):
            return at + trailer.size
    raise MalformedError(f"what follows '{member.name}' disagrees with its header")
