"""Bundles that must not open."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError


def refused(bundle: Path, problem: str) -> ExportError:
    """The error, which names `problem` and what can be done."""
    with pytest.raises(ExportError, match=problem) as caught:
        Bundle.open(bundle)
    assert caught.value.hint
    return caught.value
