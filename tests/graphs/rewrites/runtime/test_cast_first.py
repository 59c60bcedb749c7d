"""One cast in front of what moves a tensor's numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs.rewrites.runtime.cast_first import CastFirst
from tests.graphs.optimizing import infer, listing, parsed, rewritten

MOVED = """\
g (float[batch, 5, 8] x) => (float16[batch, 2, 5, 2] out, float16[batch, 5, 4] rows) {
  ["qkv/Add"] sum = Add(x, bias)
  ["attn/Split"] a, b = Split<axis = -1, num_outputs = 2>(sum)
  ["attn/Reshape"] heads = Reshape(a, shape)
  ["attn/Transpose"] laid = Transpose<perm = [0, 2, 1, 3]>(heads)
  ["cast/a"] half = Cast<to = 10>(laid)
  ["cast/b"] rows = Cast<to = 10>(b)
  ["attn/Neg"] out = Neg(half)
}
"""
GOLDEN = """\
qkv/Add: sum = Add(x, bias)
dsr/runtime/qkv/Add.first: dsr/runtime/qkv/Add.first = Cast(sum)
attn/Split: a, rows = Split(dsr/runtime/qkv/Add.first)
attn/Reshape: heads = Reshape(a, shape)
attn/Transpose: laid = Transpose(heads)
attn/Neg: out = Neg(laid)
"""


def example(*changes: tuple[str, str]) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    rng, text = np.random.default_rng(2), MOVED
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    bias = rng.standard_normal(8).astype(np.float32)
    return parsed(text, {"bias": bias, "shape": np.array([-1, 5, 2, 2])})


def test_numbers_are_the_same_bit_for_bit(rng: np.random.Generator) -> None:
    found = rewritten(example(), CastFirst())
    assert found.report.count == 1
    x = rng.standard_normal((3, 5, 8)).astype(np.float32)
    bias = onnx.numpy_helper.to_array(found.before.graph.initializer[0])
    half = (x + bias).astype(np.float16)
    out, rows = infer(found.after, {"x": x}, optimized=False)
    np.testing.assert_array_equal(out, -half[..., :4].reshape(3, 5, 2, 2).transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(rows, half[..., 4:])
    for before, after in zip(infer(found.before, {"x": x}, optimized=False), (out, rows), strict=True):
        np.testing.assert_array_equal(after, before)


def test_one_cast_is_left() -> None:
    found = rewritten(example(), CastFirst())
    assert listing(found.after) == GOLDEN
    assert rewritten(found.after, CastFirst()).report.sites == ()


ANOTHER_TYPE = (
    ("rows) {", "rows, double[batch, 2, 5, 2] wide) {"),
    ('  ["cast/a"]', '  ["cast/c"] wide = Cast<to = 11>(laid)\n  ["cast/a"]'),
)


@pytest.mark.parametrize(
    "changes",
    [
        (("=> (", "=> (float[batch, 5, 4] b, "),),
        (("=> (", "=> (float[batch, 2, 5, 2] laid, "),),
        (("=> (", "=> (float[batch, 5, 8] more, "), ('  ["cast/a"]', '  ["o"] more = Abs(sum)\n  ["cast/a"]')),
        ANOTHER_TYPE,
    ],
    ids=["an output", "a moved output", "another reader", "another type"],
)
def test_what_is_read_in_full_stays(changes: tuple[tuple[str, str], ...]) -> None:
    found = rewritten(example(*changes), CastFirst())
    assert found.report.count == 0
    assert "other types" in found.report.misses[0].reason


def test_what_nobody_moves_is_no_candidate() -> None:
    model = parsed(
        'g (float[2] x) => (float16[2] out) { ["a"] y = Neg(x)\n ["b"] out = Cast<to = 10>(y) }',
        {},
    )
    found = rewritten(model, CastFirst())
    assert (found.report.count, found.report.misses) == (0, ())
