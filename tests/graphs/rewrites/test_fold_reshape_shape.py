"""Shapes that a graph computes although they are known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs.rewrites.fold_reshape_shape import FoldReshapeShape
from tests.graphs.optimizing import infer, listing, parsed, rewritten

UNFLATTEN = """\
g (float[batch, 4, 6] x) => (float[batch, 4, 3, 2] out) {
  ["b.attn/Shape"] sizes = Shape(x)
  ["b.attn/Slice"] leading = Slice(sizes, first, end)
  ["b.attn/Concat"] shape = Concat<axis = 0>(leading, tail)
  ["b.attn/Reshape"] out = Reshape(x, shape)
}
"""
GOLDEN = "b.attn/Reshape: out = Reshape(x, dsr/optimize/b.attn/Reshape.shape)\n"


def example(old: str = "", new: str = "") -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    arrays = {"first": np.array([0]), "end": np.array([-1]), "tail": np.array([3, 2])}
    return parsed(UNFLATTEN.replace(old, new), arrays)


def test_golden_text() -> None:
    after = rewritten(example(), FoldReshapeShape()).after
    assert listing(after) == GOLDEN
    assert [onnx.numpy_helper.to_array(t).tolist() for t in after.graph.initializer] == [[-1, 4, 3, 2]]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_values_are_the_same(batch: int, rng: np.random.Generator) -> None:
    found = rewritten(example(), FoldReshapeShape())
    x = rng.standard_normal((batch, 4, 6)).astype(np.float32)
    for model in (found.before, found.after):
        np.testing.assert_array_equal(infer(model, {"x": x})[0], x.reshape(batch, 4, 3, 2))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("[batch, 4,", "[batch, tokens,", "2 dimensions of its output are open"),
        ("[batch, 4,", "[batch, 0,", "its output is empty"),
    ],
)
def test_open_shapes_are_left_alone_and_the_report_says_why(old: str, new: str, reason: str) -> None:
    found = rewritten(example(old, new), FoldReshapeShape())
    assert [miss.reason for miss in found.report.misses] == [reason]
    assert listing(found.after) == listing(found.before)
