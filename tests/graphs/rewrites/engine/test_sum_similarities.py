"""The best register by weighted sums: of equal similarities the first, as before."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs.rewrites.engine.sum_similarities import MOST_REGISTERS, SumSimilarities
from tests.graphs.optimizing import infer, parsed, rewritten

CHOICE = """\
g (float[batch, 5, 4] x) => (int64[batch, 5] out) {
  ["dsr/lower/site/similarity"] similarity = MatMul(x, registers)
  ["dsr/lower/site/usable_similarity"] chosen = Where(usable, similarity, lowest)
  ["dsr/lower/site/nearest"] out = ArgMax<axis = 2, keepdims = 0, select_last_index = 0>(chosen)
}
"""
ALL_USABLE = (
    ('  ["dsr/lower/site/usable_similarity"] chosen = Where(usable, similarity, lowest)\n', ""),
    ("(chosen)", "(similarity)"),
)


def example(*changes: tuple[str, str], registers: int = 6, seed: int = 0) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, 3, (4, registers)).astype(np.float32)  # small integers: sums are exact, and often equal
    usable = np.arange(registers) % 3 != 0
    arrays = {"registers": rows, "usable": usable, "lowest": np.array(-np.inf, np.float32)}
    text = CHOICE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parsed(text, arrays)


@pytest.mark.parametrize("changes", [(), ALL_USABLE], ids=["some", "all"])
@pytest.mark.parametrize("registers", [2, 6, 37])
def test_the_choice_is_the_same_for_ties_too(
    registers: int, changes: tuple[tuple[str, str], ...], rng: np.random.Generator
) -> None:
    found = rewritten(example(*changes, registers=registers), SumSimilarities())
    assert found.report.count == 1
    x = rng.integers(-2, 3, (40, 5, 4)).astype(np.float32)
    before, after = (infer(each, {"x": x}, optimized=False)[0] for each in (found.before, found.after))
    assert len(np.unique(before)) > 1 or registers == 2
    np.testing.assert_array_equal(after, before)
    assert "MatMul" not in {node.op_type for node in found.after.graph.node}


@pytest.mark.parametrize("registers", [1])
def test_one_register_is_the_choice_for_every_token(registers: int) -> None:
    found = rewritten(example(*ALL_USABLE, registers=registers), SumSimilarities())
    out = infer(found.after, {"x": np.ones((2, 5, 4), np.float32)})[0]
    np.testing.assert_array_equal(out, np.zeros((2, 5), np.int64))


@pytest.mark.parametrize(
    ("changes", "registers", "reason"),
    [
        (ALL_USABLE, MOST_REGISTERS + 1, "are summed at once"),
        ((("select_last_index = 0", "select_last_index = 1"),), 6, "takes the last of equal ones"),
    ],
)
def test_near_misses_say_why(changes: tuple[tuple[str, str], ...], registers: int, reason: str) -> None:
    found = rewritten(example(*changes, registers=registers), SumSimilarities())
    assert found.report.count == 0
    assert reason in found.report.misses[0].reason


def test_a_models_own_argmax_is_none_of_ours() -> None:
    found = rewritten(example(("dsr/lower/site/nearest", "head/ArgMax")), SumSimilarities())
    assert (found.report.count, found.report.misses) == (0, ())
