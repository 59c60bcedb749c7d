"""An optimization that is run again finds nothing more to do."""

from __future__ import annotations

import importlib

import onnx
import pytest

from graphs.rewrite import Rewrite
from graphs.rewrites import OPTIMIZATIONS
from tests.graphs.optimizing import listing, rewritten


@pytest.mark.parametrize("rewrite", OPTIMIZATIONS, ids=lambda rewrite: rewrite.name)
def test_a_second_run_changes_nothing(rewrite: Rewrite) -> None:
    """On the example in the rewrite's own test file."""
    example: onnx.ModelProto = importlib.import_module(f"{__package__}.test_{rewrite.name}").example()
    first = rewritten(example, rewrite)
    assert first.report.count > 0
    second = rewritten(first.after, rewrite)
    assert (second.report.count, second.report.misses) == (0, ())
    assert listing(second.after) == listing(first.after)
