"""sha256 as `sha256sum` gives it, whatever the parts and the sizes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from graphs.digests import bytes_digest, files_digest

DATA = bytes(range(256)) * 5000  # more than one chunk


def test_parts_count_one_behind_the_other() -> None:
    expected = hashlib.sha256(b"ab").hexdigest()
    assert bytes_digest(b"ab") == bytes_digest(b"a", b"", memoryview(b"b")) == expected != bytes_digest(b"ba")
    assert bytes_digest() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_files_count_by_their_contents_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(DATA)
    second.write_bytes(b"x")
    assert files_digest([first, second]) == hashlib.sha256(DATA + b"x").hexdigest() != files_digest([second, first])
