"""The pieces of a sentencepiece model (`spiece.model`), read from its protocol buffer without the package.

Fields, of sentencepiece_model.proto: 1 the pieces (1 text, 2 score, 3 type), 2 how it was trained (3 the kind of
model, 40 the id of the unknown), 3 how text is normalised (2 a compiled map of characters).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dsr_export.errors import ExportError

UNIGRAM = 1
CONTROL, USER_DEFINED = 3, 4  # types of pieces that are found in a prompt before its text is split
MOST_PIECES = 1_000_000
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_WIDTHS = {_EIGHT: 8, _FOUR: 4}
Field = tuple[int, int, bytes]  # number, value of an integer, bytes of anything else


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """`pieces` with their scores in the order of their ids; `special` those found first, and whether they control."""

    pieces: tuple[tuple[str, float], ...]
    special: tuple[tuple[str, bool], ...]
    unknown: int
    charsmap: bytes


def read_pieces(data: bytes, where: str) -> Pieces:
    """Raises ExportError where `data` is no model of that kind, naming `where` it lies."""
    try:
        fields = list(_fields(data))
        pieces = [_piece(content) for number, _, content in fields if number == 1]
        trained = {number: value for each, _, content in fields if each == 2 for number, value, _ in _fields(content)}
        normal = {number: found for each, _, content in fields if each == 3 for number, _, found in _fields(content)}
    except (ValueError, IndexError, struct.error) as error:
        raise ExportError(f"{where} is no sentencepiece model ({error})", hint="download it again") from error
    unknown = trained.get(40, 0)
    if not 0 < len(pieces) <= MOST_PIECES or not unknown < len(pieces):
        raise ExportError(f"{where} holds {len(pieces)} pieces, and the unknown is {unknown}", hint="download it again")
    if trained.get(3, UNIGRAM) != UNIGRAM:
        raise ExportError(
            f"{where} is a sentencepiece model of another kind than unigram",
            hint="save the tokenizer anew with transformers: AutoTokenizer.from_pretrained(F).save_pretrained(F)",
        )
    special = tuple((text, kind == CONTROL) for text, _, kind in pieces if kind in (CONTROL, USER_DEFINED))
    scored = tuple((text, score) for text, score, _ in pieces)
    return Pieces(pieces=scored, special=special, unknown=unknown, charsmap=normal.get(2, b""))


def _piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, 1
    for number, value, content in _fields(data):
        if number == 1:
            text = content.decode("utf-8")
        elif number == 2:
            (score,) = struct.unpack("<f", content)
        elif number == 3:
            kind = value
    return text, score, kind


def _fields(data: bytes) -> Iterator[Field]:
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        wire = key & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield key >> 3, value, b""
            continue
        if wire == _BYTES:
            size, place = _varint(data, place)
        elif wire in _WIDTHS:
            size = _WIDTHS[wire]
        else:
            raise ValueError(f"a field of kind {wire}")
        if place + size > len(data):
            raise ValueError("it ends too early")
        yield key >> 3, 0, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number at `place`, seven bits a byte from the lowest, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        value, place = value | (byte & 127) << shift, place + 1
        if byte < 128:
            return value, place
    raise ValueError("a number of more than ten bytes")
