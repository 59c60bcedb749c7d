"""`I/N`."""

from __future__ import annotations

import pytest

from dsr_export.declarations.share import Share
from dsr_export.errors import ExportError


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "-1/2", "1/2/3", "1/99999999999999999"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ExportError, match="is not I/N"):
        Share.parse(text, option="--cell")


@pytest.mark.parametrize("count", [0, 1, 2, 7, 32])
@pytest.mark.parametrize("of", [1, 2, 3, 7, 40])
def test_runs_of_neighbours_are_all_things_once(count: int, of: int) -> None:
    runs = [Share(index, of).run(count) for index in range(1, of + 1)]
    assert [item for run in runs for item in run] == list(range(count))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
