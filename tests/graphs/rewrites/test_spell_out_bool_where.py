"""A choice between booleans, for a runtime that chooses between numbers only."""

from __future__ import annotations

import itertools

import numpy as np
import onnx

from graphs.rewrites.spell_out_bool_where import SpellOutBoolWhere
from tests.graphs.optimizing import infer, listing, parsed, rewritten

TEXT = """\
g (bool[batch, 1] c, bool[batch, 4] a, bool[4] b) => (bool[batch, 4] out) {
  ["m/Where"] out = Where(c, a, b)
}
"""
GOLDEN = """\
dsr/optimize/m/Where.taken: dsr/optimize/m/Where.taken = And(c, a)
dsr/optimize/m/Where.other: dsr/optimize/m/Where.other = Not(c)
dsr/optimize/m/Where.left: dsr/optimize/m/Where.left = And(dsr/optimize/m/Where.other, b)
dsr/optimize/m/Where.chosen: out = Or(dsr/optimize/m/Where.taken, dsr/optimize/m/Where.left)
"""


def example() -> onnx.ModelProto:
    """A graph in which the rewrite matches."""
    return parsed(TEXT, {})


def test_golden_text() -> None:
    found = rewritten(example(), SpellOutBoolWhere())
    assert listing(found.after) == GOLDEN


def test_every_choice_is_wheres_own() -> None:
    a, b = (np.array(values) for values in zip(*itertools.product([False, True], repeat=2), strict=True))
    c = np.array([[False], [True]])
    after = rewritten(example(), SpellOutBoolWhere()).after
    made = infer(after, {"c": c, "a": np.stack([a, a]), "b": b})[0]
    np.testing.assert_array_equal(made, np.where(c, np.stack([a, a]), b))


def test_a_choice_between_numbers_stays() -> None:
    text = TEXT.replace("bool[batch, 4] a, bool[4] b) => (bool", "float[batch, 4] a, float[4] b) => (float")
    model: onnx.ModelProto = parsed(text, {})
    assert rewritten(model, SpellOutBoolWhere()).report.count == 0
