"""Canonical JSON: one byte form per value, so that equal values have equal digests and any flipped byte is found.

The form: UTF-8, keys sorted by code point, no spaces, no NaN or infinity, one newline at the end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError
from graphs.digests import bytes_digest
from graphs.foreign.small_files import LARGEST_JSON, read_small

MAX_BYTES = LARGEST_JSON
MAX_DEPTH = 64
INT_RANGE = range(-(2**63), 2**64)  # what other JSON readers hold in a signed or an unsigned 64-bit integer

_HINT = "the file was changed or is damaged: copy it again, or build the bundle again"


def canonical_bytes(value: object) -> bytes:
    """The one byte form of `value` (tuples count as lists).

    Raises:
        ExportError: `value` holds something that JSON has no form for; the message says where.
    """
    _check_value(value, "$", 0)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def canonical_digest(value: object) -> str:
    """sha256 over `canonical_bytes(value)`, in hexadecimal. Raises what that does."""
    return bytes_digest(canonical_bytes(value))


def parse_json(data: bytes, *, where: str | Path, max_bytes: int = MAX_BYTES) -> Any:
    """Strict JSON in any layout: UTF-8, no key twice, finite numbers, bounded size and depth.

    Raises:
        ExportError: naming `where` and what is wrong.
    """
    if len(data) > max_bytes:
        raise ExportError(f"{where} has {len(data)} bytes, more than the {max_bytes} allowed", hint=_HINT)
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        _check_value(value, "$", 0)
    except RecursionError:
        raise ExportError(f"{where} nests deeper than {MAX_DEPTH} levels", hint=_HINT) from None
    except ExportError as error:
        raise ExportError(f"{where}: {error.message}", hint=_HINT) from None
    except ValueError as error:  # covers JSONDecodeError, UnicodeDecodeError and integers of thousands of digits
        raise ExportError(f"{where} is no valid JSON: {error}", hint=_HINT) from None
    return value


def parse_canonical(data: bytes, *, where: str | Path, max_bytes: int = MAX_BYTES) -> Any:
    """The value whose canonical form is exactly `data`.

    Raises:
        ExportError: as `parse_json`, and for any other byte form of the same value.
    """
    value = parse_json(data, where=where, max_bytes=max_bytes)
    expected = canonical_bytes(value)
    if data != expected:
        offset = _first_difference(data, expected)
        raise ExportError(f"{where} is not canonical JSON: its bytes differ from offset {offset} on", hint=_HINT)
    return value


def sealed_bytes(value: Mapping[str, Any]) -> bytes:
    """Canonical form of `value` with a `digest` of itself: the sha256 of the canonical form without that key."""
    return canonical_bytes({**value, "digest": canonical_digest(value)})


def parse_sealed(data: bytes, *, where: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """What `sealed_bytes` was given, its digest checked.

    Raises:
        ExportError: as `parse_canonical`, and where the digest is missing or another.
    """
    value = parse_canonical(data, where=where, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise ExportError(f"{where} holds {_kind(value)}, expected an object", hint=_HINT)
    claimed = value.pop("digest", None)
    actual = canonical_digest(value)
    if claimed != actual:
        raise ExportError(f"{where} was changed: its digest is {actual}, it says {str(claimed)[:80]!r}", hint=_HINT)
    return value


def read_bounded(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a small file. ExportError where it cannot be read or is larger than `max_bytes`."""
    try:
        return read_small(path, max_bytes=max_bytes, hint=_HINT)
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}", hint="check the path") from error


def _check_value(value: object, at: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ExportError(f"the value nests deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ExportError(f"{at} has the key {key!r}, which is {_kind(key)}, expected a string")
            _check_text(key, at)
            _check_value(item, f"{at}.{key}" if key.isidentifier() else f"{at}[{key[:80]!r}]", depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_value(item, f"{at}[{index}]", depth + 1)
    else:
        _check_scalar(value, at)


def _check_scalar(value: object, at: str) -> None:
    # Exact types: json writes a subclass (an enum, a numpy float) in a form of its own, or by its repr.
    if value is None or type(value) is bool:
        return
    if type(value) is str:
        _check_text(value, at)
    elif type(value) is int:
        if value not in INT_RANGE:
            raise ExportError(f"{at} is an integer of {value.bit_length()} bits, expected at most 64")
    elif type(value) is not float:
        raise ExportError(f"{at} is {_kind(value)}, which canonical JSON has no form for")
    elif not math.isfinite(value):
        raise ExportError(f"{at} is {value}, expected a finite number")


def _check_text(text: str, at: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ExportError(f"{at} holds a lone surrogate, which UTF-8 has no form for") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ExportError(f"the key {key[:80]!r} appears twice")
        value[key] = item
    return value


def _no_constant(name: str) -> Any:
    raise ExportError(f"{name} is no JSON number")


def _first_difference(left: bytes, right: bytes) -> int:
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"
