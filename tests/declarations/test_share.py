"""`I/N`."""

from __future__ import annotations

import pytest

from dsr_export.declarations.share import Share
from dsr_export.errors import ExportError


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "-1/2", "1/2/3", "1/99999999999999999"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ExportError, match="is not I/N"):
        Share.parse(text, option="--cell")
