"""q, k and v parted as rows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs.rewrites.runtime.part_before_heads import PartBeforeHeads
from tests.graphs.optimizing import infer, listing, parsed, rewritten

TOKENS, HEADS, SIZE = 5, 2, 4
PARTED = """\
g (float[batch, 5, 24] x) => (float[batch, 2, 5, 4] a, float[batch, 2, 5, 4] out) {
  ["attn/Reshape"] parted = Reshape(x, shape)
  ["attn/Transpose"] laid = Transpose<perm = [2, 0, 3, 1, 4]>(parted)
"""
READERS = {
    "slices": """\
  ["attn/Slice"] first = Slice(laid, zero, one, zero)
  ["attn/Slice_1"] last = Slice(laid, minus, end, zero)
  ["attn/Squeeze"] a = Squeeze(first, zero)
  ["attn/Squeeze_1"] c = Squeeze(last, zero)
  ["attn/Neg"] out = Neg(c)
}
""",
    "split": """\
  ["attn/Split"] first, second, last = Split<axis = 0, num_outputs = 3>(laid)
  ["attn/Squeeze"] a = Squeeze(first, zero)
  ["attn/Squeeze_1"] b = Squeeze(second, zero)
  ["attn/Squeeze_2"] c = Squeeze(last, zero)
  ["attn/Sub"] d = Sub(c, b)
  ["attn/Add"] e = Add(d, b)
  ["attn/Neg"] out = Neg(e)
}
""",
    "gather": """\
  ["attn/Gather"] a = Gather<axis = 0>(laid, at_first)
  ["attn/Gather_1"] c = Gather<axis = 0>(laid, at_last)
  ["attn/Neg"] out = Neg(c)
}
""",
}
GOLDEN = """\
dsr/runtime/attn/Transpose.parts: {s}.parts, {s}.parts#1, {s}.parts#2 = Split(x)
dsr/runtime/attn/Transpose.rows: {s}.rows = Reshape({s}.parts, {s}.heads)
dsr/runtime/attn/Transpose.laid: a = Transpose({s}.rows)
dsr/runtime/attn/Transpose.rows_2: {s}.rows_2 = Reshape({s}.parts#2, {s}.heads_2)
dsr/runtime/attn/Transpose.laid_2: c = Transpose({s}.rows_2)
attn/Neg: out = Neg(c)
"""


def example(*changes: tuple[str, str], readers: str = "slices") -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    arrays = {"shape": np.array([-1, TOKENS, 3, HEADS, SIZE]), "zero": np.array([0]), "one": np.array([1])}
    arrays |= {"minus": np.array([-1]), "end": np.array([9]), "at_first": np.array(0), "at_last": np.array(-1)}
    text = PARTED + READERS[readers]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parsed(text, arrays)


@pytest.mark.parametrize("readers", READERS)
def test_heads_are_the_same_bit_for_bit(readers: str, rng: np.random.Generator) -> None:
    found = rewritten(example(readers=readers), PartBeforeHeads())
    assert found.report.count == 1
    x = rng.standard_normal((3, TOKENS, 3 * HEADS * SIZE)).astype(np.float32)
    heads = x.reshape(3, TOKENS, 3, HEADS, SIZE).transpose(2, 0, 3, 1, 4)
    first, last = infer(found.after, {"x": x})
    np.testing.assert_array_equal(first, heads[0])
    if readers != "split":
        np.testing.assert_array_equal(last, -heads[2])
    for before, after in zip(infer(found.before, {"x": x}), (first, last), strict=True):
        np.testing.assert_array_equal(after, before)


def test_rows_are_parted_first() -> None:
    found = rewritten(example(), PartBeforeHeads())
    golden = GOLDEN.format(s="dsr/runtime/attn/Transpose")
    assert sorted(listing(found.after).splitlines()) == sorted(golden.splitlines())
    assert rewritten(found.after, PartBeforeHeads()).report.sites == ()


NEGATED = (
    ("Transpose<perm = [2, 0, 3, 1, 4]>(parted)", "Transpose<perm = [2, 0, 3, 1, 4]>(other)"),
    ('  ["attn/Transpose"]', '  ["n"] other = Neg(parted)\n  ["attn/Transpose"]'),
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ((("c = Squeeze(last, zero)", 'd = Neg(last)\n  ["attn/Last"] c = Squeeze(d, zero)'),), "part by part"),
        ((("=> (", "=> (float[3, batch, 2, 5, 4] laid, "),), "part by part"),
        ((("float[batch, 5, 24] x", "float[batch, 10, 12] x"),), "rows of all its parts"),
        (NEGATED, "of a known size"),
    ],
)
def test_near_misses_say_why(changes: tuple[tuple[str, str], ...], reason: str) -> None:
    found = rewritten(example(*changes), PartBeforeHeads())
    assert found.report.count == 0
    assert reason in found.report.misses[0].reason
