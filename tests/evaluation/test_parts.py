"""Parts cover every picture once, and shares cover every part once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_export.errors import ExportError
from dsr_export.evaluation.parts import ABOUT, Shard, parts_of


@given(count=st.integers(1, 60_000), of=st.integers(1, 40))
def test_every_picture_is_in_one_part_of_one_share(count: int, of: int) -> None:
    parts = parts_of(count)
    assert [part.index for part in parts] == list(range(len(parts))) and len(parts) <= ABOUT
    assert [i for part in parts for i in (part.first, part.first + part.count)][1:-1:2] == [p.first for p in parts[1:]]
    assert parts[0].first == 0 and sum(part.count for part in parts) == count
    shares = [Shard(i, of).of_parts(parts) for i in range(1, of + 1)]
    assert sorted(part.index for share in shares for part in share) == list(range(len(parts)))


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "-1/2", "1/2/3", "1/99999999999999999"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ExportError, match="is not I/N"):
        Shard.parse(text)
