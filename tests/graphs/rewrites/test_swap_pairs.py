"""Rotary embeddings of interleaved channels: pairs swapped, signs in the table."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs.rewrites.swap_pairs import SwapPairs
from tests.graphs.optimizing import infer, listing, parsed, rewritten

ROTARY = """\
g (float[batch, 2, 5, 6] x) => (float[batch, 2, 5, 6] out) {
  ["rope/Reshape"] pairs = Reshape(x, paired)
  ["rope/Slice"] even_column = Slice(pairs, zero, one, last)
  ["rope/Slice_1"] odd_column = Slice(pairs, one, two, last)
  ["rope/Squeeze"] even = Squeeze(even_column, last)
  ["rope/Squeeze_1"] odd = Squeeze(odd_column, last)
  ["rope/Neg"] minus = Neg(odd)
  ["rope/Unsqueeze"] minus_column = Unsqueeze(minus, last)
  ["rope/Unsqueeze_1"] plus_column = Unsqueeze(even, last)
  ["rope/Concat"] stack = Concat<axis = -1>(minus_column, plus_column)
  ["rope/Reshape_1"] rotated = Reshape(stack, flat)
  ["rope/Mul"] a = Mul(x, cos)
  ["rope/Mul_1"] b = Mul(rotated, sin)
  ["rope/Add"] out = Add(a, b)
}
"""
GOLDEN = """\
rope/Reshape: pairs = Reshape(x, paired)
rope/Mul: a = Mul(x, cos)
dsr/optimize/rope/Mul_1.pairs: dsr/optimize/rope/Mul_1.pairs, dsr/optimize/rope/Mul_1.pairs#1 = Split(pairs)
dsr/optimize/rope/Mul_1.stacked: dsr/optimize/rope/Mul_1.stacked = Concat(\
dsr/optimize/rope/Mul_1.pairs#1, dsr/optimize/rope/Mul_1.pairs)
dsr/optimize/rope/Mul_1.swapped: dsr/optimize/rope/Mul_1.swapped = Reshape(dsr/optimize/rope/Mul_1.stacked, flat)
rope/Mul_1: b = Mul(dsr/optimize/rope/Mul_1.swapped, dsr/optimize/tables/sin.signed)
rope/Add: out = Add(a, b)
"""
SPLIT = """even_column, odd_column = Split<axis = 4, num_outputs = 2>(pairs)
  ["rope/Identity"] unused = Identity(pairs)"""


def example(*changes: tuple[str, str]) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    angles = np.arange(15, dtype=np.float32).reshape(5, 3).repeat(2, axis=1)
    arrays = {name: np.array([value]) for name, value in {"zero": 0, "one": 1, "two": 2, "last": -1}.items()}
    arrays |= {"paired": np.array([-1, 2, 5, 3, 2]), "flat": np.array([-1, 2, 5, 6])}
    arrays |= {"cos": np.cos(angles), "sin": np.sin(angles), "column": np.sin(angles[:, :1])}
    text = ROTARY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parsed(text, arrays)


def _rotary(x: np.ndarray) -> np.ndarray:
    """Each pair as a complex number, turned by its token's angle for it."""
    turned = x.view(np.complex64) * np.exp(1j * np.arange(15).reshape(5, 3))
    return turned.astype(np.complex64).view(np.float32)


SPLIT_CHANGES = (
    ("even_column = Slice(pairs, zero, one, last)", SPLIT),
    ('  ["rope/Slice_1"] odd_column = Slice(pairs, one, two, last)\n', ""),
)


@pytest.mark.parametrize("changes", [(), (("Mul(rotated, sin)", "Mul(sin, rotated)"),), SPLIT_CHANGES])
def test_the_embedding_is_the_same_bit_for_bit(changes: tuple[tuple[str, str], ...], rng: np.random.Generator) -> None:
    found = rewritten(example(*changes), SwapPairs())
    assert found.report.count == 1
    x = rng.standard_normal((3, 2, 5, 6)).astype(np.float32)
    before, after = (infer(model, {"x": x}, optimized=False)[0] for model in (found.before, found.after))
    np.testing.assert_array_equal(after, before)
    np.testing.assert_allclose(infer(found.after, {"x": x})[0], _rotary(x), rtol=0, atol=1e-6)


def test_golden_text() -> None:
    assert listing(rewritten(example(), SwapPairs()).after) == GOLDEN


def test_embeddings_that_share_a_table_still_do() -> None:
    again = (("b = Mul(rotated, sin)", 'b = Mul(rotated, sin)\n  ["rope/Mul_2"] c = Mul(rotated, sin)'),)
    found = rewritten(example(*again, ("Add(a, b)", "Sum(a, b, c)")), SwapPairs())
    assert found.report.count == 2
    assert [t.name for t in found.after.graph.initializer if "sin" in t.name] == ["dsr/optimize/tables/sin.signed"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Mul(rotated, sin)", "Mul(rotated, x)", "its sines are computed at run time"),
        ("Mul(rotated, sin)", "Mul(rotated, column)", "its sines have shape [5, 1], for 6 channels"),
    ],
)
def test_other_tables_are_left_alone_and_the_report_says_why(old: str, new: str, reason: str) -> None:
    found = rewritten(example((old, new)), SwapPairs())
    assert [miss.reason for miss in found.report.misses] == [reason]
    assert listing(found.after) == listing(found.before)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Neg(odd)", "Neg(even)"),
        ("Neg(odd)", "Abs(odd)"),
        ("Unsqueeze(even, last)", "Unsqueeze(odd, last)"),
        ("Slice(pairs, one, two, last)", "Slice(pairs, zero, one, last)"),
        ("Concat<axis = -1>(minus_column, plus_column)", "Concat<axis = -1>(plus_column, minus_column)"),
    ],
)
def test_what_is_no_rotation_is_no_candidate(old: str, new: str) -> None:
    found = rewritten(example((old, new)), SwapPairs())
    assert (found.report.count, found.report.misses) == (0, ())
    assert listing(found.after) == listing(found.before)
