"""Seeded damage to files: bytes that rot, text that someone wrote by hand, values that no writer would write."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from typing import Any

TOKENS = (
    *(
        b"",
        b" ",
        b"\0",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"[",
        b"{",
        b"]",
        b"}",
        b'"',
        b"'",
        b":",
        b",",
        b".",
        b"=",
        b"\n",
    ),
    *(b"-1", b"0", b"1e400", b"nan", b"-inf", b"true", b"null", b"9" * 5000, b"0x" + b"f" * 5000, b"1:" * 200),
    *(b"[" * 1500, b"{" * 1200, b"- " * 1200, b"a." * 1500, b'{"a":' * 1200, b"(" * 500, b"'" * 3, b"#"),
    *(b"&a", b"*a", b"<<: *a\n", b"!!int ", b"!!bool x", b"!!timestamp x", b"? ", b"\\ud800", b"\\u0000", b"\\"),
    *(b"/dev/zero", b"../../x", b"F4", b"BOOL", b"C64", b"__metadata__", b"18446744073709551616"),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        2**31,
        2**63,
        2**70,
        10**400,
        0.5,
        -1e300,
        1e39,
        "",
        "x",
        "\0",
        "\ud800",
        "x" * 5000,
        "/dev/zero",
    ),
    *([], {}, [[]], [None], {"": None}, [-1], [2**40, 2**40], ["x"], {"a": {"b": {}}}, [0] * 1000),
)


def rotten(data: bytes, rng: random.Random) -> bytes:
    """`data` with some bytes flipped, cut out, repeated, or with a token put in."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, to = (rng.randrange(len(made) + 1) for _ in range(2))
        low, high = min(at, to), min(max(at, to), min(at, to) + 64)
        kind = rng.randrange(6)
        if kind == 0 and made:
            made[at % len(made)] = rng.randrange(256)
        elif kind == 1:
            del made[low:high]
        elif kind == 2:
            made[at:at] = made[low:high] * rng.choice((1, 2, 100))
        elif kind == 3:
            del made[at:]
        elif kind == 4 and len(made) > 8:
            made[at % (len(made) - 8) :][:8] = struct.pack("<Q", rng.choice((0, 2**31, 2**40, 2**63, 2**64 - 1)))
        else:
            made[at : rng.choice((at, high))] = rng.choice(TOKENS)
    return bytes(made)


def rewritten(value: Any, rng: random.Random) -> Any:
    """JSON `value` with one part of it replaced, left out or put under another name."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        return rng.choice(VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    made = dict(value) if isinstance(value, dict) else list(value)
    if rng.random() < 0.1:
        del made[key]
    elif rng.random() < 0.1 and isinstance(made, dict):
        made[rng.choice(("", "x", "\0", "9" * 5000, "-1", "a.b"))] = made.pop(key)
    else:
        made[key] = rewritten(value[key], rng)
    return made


def json_of(data: bytes, rng: random.Random) -> bytes:
    """JSON in `data`, still JSON."""
    return json.dumps(rewritten(json.loads(data), rng)).encode()


def members_of(data: bytes, rng: random.Random) -> bytes:
    """A zip with one member rotten, its checksum right; sometimes packed or named in another way."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    chosen = rng.choice(sorted(members))
    members[chosen] = rotten(members[chosen], rng)
    if rng.random() < 0.1:
        members[rng.choice(("/x", "a\0b", "日本", "x" * 5000, "data.pkl", "../x.npy"))] = members.pop(chosen)
    stream = io.BytesIO()
    packing = rng.choice((zipfile.ZIP_STORED,) * 6 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def header_of(data: bytes, rng: random.Random) -> bytes:
    """safetensors with a header that is JSON of the right length."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json_of(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
