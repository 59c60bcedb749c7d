from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_export.errors import ExportError
from dsr_export.storage.canonical import (
    MAX_DEPTH,
    canonical_bytes,
    canonical_digest,
    parse_canonical,
    parse_json,
    parse_sealed,
    read_bounded,
    sealed_bytes,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_is_read_back_and_is_the_only_form(value: Any) -> None:
    data = canonical_bytes(value)
    assert parse_canonical(data, where="f") == value
    assert canonical_bytes(parse_canonical(data, where="f")) == data


def test_the_form_is_sorted_dense_utf8_with_one_newline() -> None:
    assert canonical_bytes({"ä": (1, 2.0), "a": None}) == '{"a":null,"ä":[1,2.0]}\n'.encode()


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1}',
        b'{"a":1}\n\n',
        b'{"a": 1}\n',
        b' {"a":1}\n',
        b'{"b":1,"a":2}\n',
        b'{"a":"\\u0041"}\n',
        b'{"a":1.00}\n',
        b'{"a":1e3}\n',
        b"-0\n",
        b'"\\/"\n',
    ],
)
def test_any_other_form_of_a_value_is_refused(data: bytes) -> None:
    json.loads(data)  # it is JSON
    with pytest.raises(ExportError, match=r"file\.json is not canonical JSON: its bytes differ from offset \d+"):
        parse_canonical(data, where="file.json")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"a":1,"a":1}', "'a' appears twice"),
        (b'{"x":{"a":1,"a":2}}', "'a' appears twice"),
        (b"NaN", "NaN is no JSON number"),
        (b"[-Infinity]", "-Infinity is no JSON number"),
        (b'{"a":[1,1e999]}', r"\$\.a\[1\] is inf"),
        (b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), "nests deeper than 64"),
        (b"[" * 200_000 + b"]" * 200_000, "nests deeper than 64"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "nests deeper than 64"),
        (b"1" * 30, "integer of .* bits"),
        (b"1" * 10_000, "no valid JSON"),
        (b'"\\ud800"', "lone surrogate"),
        (b'{"\\ud800":1}', "lone surrogate"),
        (b'"\xff"', "no valid JSON"),
        (b"\xef\xbb\xbf{}", "no valid JSON"),
        ('{"a":1}'.encode("utf-16"), "no valid JSON"),
        (b'{"a":1', "no valid JSON"),
        (b"", "no valid JSON"),
        (b"{} {}", "no valid JSON"),
        (b"'a'", "no valid JSON"),
    ],
)
def test_bad_json_is_refused_by_file_and_reason(data: bytes, problem: str) -> None:
    with pytest.raises(ExportError, match=problem) as caught:
        parse_json(data, where="file.json")
    assert caught.value.message.startswith("file.json")
    assert caught.value.hint


def test_layout_is_free_where_the_form_is_not_asked_for() -> None:
    assert parse_json(b'{ "b": 1,\n "a": 2 }', where="f") == {"b": 1, "a": 2}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"a": float("nan")}, r"\$\.a is nan"),
        ({"a": [float("inf")]}, r"\$\.a\[0\] is inf"),
        ({1: 2}, "key 1"),
        ({"a": Path("x")}, "type PosixPath"),
        ({"a": {1, 2}}, "type set"),
        (2**64, "65 bits"),
        (-(2**63) - 1, "bits"),
    ],
)
def test_values_without_a_form_are_refused_by_place(value: Any, problem: str) -> None:
    with pytest.raises(ExportError, match=problem):
        canonical_bytes(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ExportError, match="nests deeper"):
        canonical_bytes(loop)


def test_size_is_bounded() -> None:
    with pytest.raises(ExportError, match="f has 12 bytes, more than the 8 allowed"):
        parse_json(b'"0123456789"', where="f", max_bytes=8)


def test_reading_stops_at_the_bound(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 9)
    assert read_bounded(tmp_path / "f", max_bytes=9) == b"x" * 9
    with pytest.raises(ExportError, match="more than the 8 bytes"):
        read_bounded(tmp_path / "f", max_bytes=8)
    with pytest.raises(ExportError, match="cannot read .*absent: No such file"):
        read_bounded(tmp_path / "absent")


def test_every_flipped_bit_breaks_a_seal() -> None:
    data = sealed_bytes({"a": 1, "b": "text"})
    assert parse_sealed(data, where="f") == {"a": 1, "b": "text"}
    for index in range(len(data)):
        for bit in range(8):
            changed = data[:index] + bytes([data[index] ^ (1 << bit)]) + data[index + 1 :]
            with pytest.raises(ExportError, match="f"):
                parse_sealed(changed, where="f")


@pytest.mark.parametrize("data", [b"[]\n", b"{}\n", b'{"digest":null}\n', b'"x"\n'])
def test_what_has_no_seal_is_refused(data: bytes) -> None:
    with pytest.raises(ExportError, match=r"expected an object|its digest is"):
        parse_sealed(data, where="f")


def test_the_seal_is_over_the_content_without_itself() -> None:
    assert f'"digest":"{canonical_digest({"a": 1})}"'.encode() in sealed_bytes({"a": 1})
