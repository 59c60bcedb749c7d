"""A factor of 1 for every row goes; any other stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs.rewrites.drop_ones import DropOnes
from tests.graphs.optimizing import infer, listing, parsed, rewritten

TEXT = """\
g (float[batch, 4, 3] x) => (float[batch, 4, 3] out) {
  ["a/Relu"] y = Relu(x)
  ["a/Mul"] live = Mul(y, rows)
  ["a/Neg"] out = Neg(live)
}
"""
ROWS = np.ones((4, 1), np.float32)


def example(rows: np.ndarray = ROWS, text: str = TEXT) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    return parsed(text, {"rows": rows})


def test_golden_text() -> None:
    found = rewritten(example(), DropOnes())
    assert listing(found.after) == "a/Relu: y = Relu(x)\na/Neg: out = Neg(y)\n"


def test_an_output_of_the_graph_keeps_its_name(rng: np.random.Generator) -> None:
    text = TEXT.replace("live = Mul", "out = Mul").replace('  ["a/Neg"] out = Neg(live)\n', "")
    found = rewritten(example(text=text), DropOnes())
    assert found.report.count == 1
    x = rng.standard_normal((2, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(infer(found.after, {"x": x})[0], np.maximum(x, 0))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (np.array([[1], [1], [0], [1]], np.float32), None),
        (np.ones(3, np.float32), None),  # a norm's scale
        (np.ones((5, 1, 4, 1), np.float32), "its product is not known to have the shape of its input"),
    ],
)
def test_what_stays(rows: np.ndarray, reason: str | None) -> None:
    text = TEXT if rows.ndim < 4 else TEXT.replace("(float[batch, 4, 3] out)", "(float[5, batch, 4, 3] out)")
    report = rewritten(example(rows, text), DropOnes()).report
    assert (report.count, [miss.reason for miss in report.misses]) == (0, [reason] if reason else [])
