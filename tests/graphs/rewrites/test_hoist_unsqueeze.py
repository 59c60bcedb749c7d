"""AdaLN's vectors get their token axis at once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs.rewrites.hoist_unsqueeze import HoistUnsqueeze
from tests.graphs.optimizing import infer, listing, parsed, rewritten

MODULATE = """\
g (float[batch, 6] c, float[batch, 5, 3] x) => (float[batch, 5, 3] out) {
  ["root/Split"] shift, scale = Split<axis = 1, num_outputs = 2>(c)
  ["b/Unsqueeze"] shift_row = Unsqueeze(shift, one)
  ["b/Unsqueeze_1"] scale_row = Unsqueeze(scale, one)
  ["b/Mul"] scaled = Mul(x, scale_row)
  ["b/Add"] out = Add(scaled, shift_row)
}
"""
GOLDEN = """\
dsr/optimize/root/Split.unsqueezed: dsr/optimize/root/Split.unsqueezed = Unsqueeze(c, dsr/optimize/root/Split.axis)
dsr/optimize/root/Split.parts: dsr/optimize/root/Split.parts, dsr/optimize/root/Split.parts#1 = Split(\
dsr/optimize/root/Split.unsqueezed)
b/Mul: scaled = Mul(x, dsr/optimize/root/Split.parts#1)
b/Add: out = Add(scaled, dsr/optimize/root/Split.parts)
"""
TWICE = (
    ("scaled = Mul(x, scale_row)", "thrice = Unsqueeze(scale, one)\n  scaled = Mul(x, thrice)"),
    ("Add(scaled", "Sum(scaled, scale_row"),
)
SIZES = (("Split<axis = 1, num_outputs = 2>(c)", "Split<axis = -1>(c, sizes)"),)


def example(*changes: tuple[str, str]) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    text = MODULATE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    arrays = {"one": np.array([1]), "two": np.array([2]), "sizes": np.array([3, 3])}
    return parsed(text, arrays)


@pytest.mark.parametrize("changes", [(), SIZES, TWICE])
def test_the_modulation_is_the_same(changes: tuple[tuple[str, str], ...], rng: np.random.Generator) -> None:
    found = rewritten(example(*changes), HoistUnsqueeze())
    assert found.report.count == 1
    c, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 6), (2, 5, 3)))
    shift, scale = c[:, None, :3], c[:, None, 3:]
    expected = x * scale + shift + (scale if changes is TWICE else 0)
    for model in (found.before, found.after):
        np.testing.assert_allclose(infer(model, {"c": c, "x": x})[0], expected, rtol=0, atol=1e-6)


def test_golden_text() -> None:
    after = rewritten(example(), HoistUnsqueeze()).after
    assert listing(after) == GOLDEN
    assert {a.name: a.i for a in after.graph.node[1].attribute} == {"axis": 2, "num_outputs": 2}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ((("Add(scaled, shift_row)", "Sum(scaled, shift_row, shift)"),), "b/Add reads it without a new axis"),
        (
            (("(shift, one)", "(shift, two)"), ("out = Add", "out = MatMul"), ("5, 3] out", "5, 1] out")),
            "its readers do not add the same axis, in front of the split one",
        ),
    ],
)
def test_other_readers_keep_it_and_the_report_says_why(changes: tuple[tuple[str, str], ...], reason: str) -> None:
    found = rewritten(example(*changes), HoistUnsqueeze())
    assert [miss.reason for miss in found.report.misses] == [reason]
    assert listing(found.after) == listing(found.before)
