"""Parts cover every picture once, and shares cover every part once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsr_export.declarations.share import Share
from dsr_export.evaluation.parts import ABOUT, parts_of


@given(count=st.integers(1, 60_000), of=st.integers(1, 40))
def test_every_picture_is_in_one_part_of_one_share(count: int, of: int) -> None:
    parts = parts_of(count)
    assert [part.index for part in parts] == list(range(len(parts))) and len(parts) <= ABOUT
    assert [i for part in parts for i in (part.first, part.first + part.count)][1:-1:2] == [p.first for p in parts[1:]]
    assert parts[0].first == 0 and sum(part.count for part in parts) == count
    shares = [Share(i, of).taken(parts) for i in range(1, of + 1)]
    assert sorted(part.index for share in shares for part in share) == list(range(len(parts)))
