"""Replaced tokens in the residual stream's own type."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs.rewrites.engine.replace_narrow import ReplaceNarrow
from tests.graphs.optimizing import infer, parsed, rewritten

REPLACEMENT = """\
g (float16[batch, 5, 4] x, bool[batch, 5, 1] mask, int64[batch, 5] best)
  => (float16[batch, 5, 4] stream, float[batch, 5, 4] wide_out) {
  ["cast"] wide = Cast<to = 1>(x)
  ["dsr/lower/site/chosen"] chosen = Gather<axis = 0>(registers, best)
  ["dsr/lower/site/out"] out = Where(mask, chosen, wide)
  ["cast_back"] low = Cast<to = 10>(out)
  ["next/Neg"] stream = Neg(low)
  ["norm/Abs"] wide_out = Abs(out)
}
"""


def example(*changes: tuple[str, str], largest: float = 3.0) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    rows = np.linspace(-largest, largest, 12, dtype=np.float32).reshape(3, 4)
    text = REPLACEMENT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parsed(text, {"registers": rows, "zero": np.zeros((), np.float32)})


MASKED = (
    (
        '  ["dsr/lower/site/chosen"] chosen = Gather<axis = 0>(registers, best)\n',
        '  ["other"] unread = Identity(best)\n',
    ),
    ("Where(mask, chosen, wide)", "Where(mask, zero, wide)"),
)


@pytest.mark.parametrize("changes", [(), MASKED], ids=["registers", "zero"])
def test_the_stream_is_the_same_bit_for_bit(changes: tuple[tuple[str, str], ...], rng: np.random.Generator) -> None:
    found = rewritten(example(*changes), ReplaceNarrow())
    assert found.report.count == 1
    feed = {"x": rng.standard_normal((3, 5, 4)).astype(np.float16), "mask": rng.random((3, 5, 1)) > 0.5}
    feed["best"] = rng.integers(0, 3, (3, 5))
    before, after = (infer(each, feed, optimized=False) for each in (found.before, found.after))
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(after[1], before[1], rtol=2**-11, atol=0)  # registers are rounded there, too
    made = next(node for node in found.after.graph.node if node.op_type == "Where")
    assert made.output[0] == "out"
    kinds = {value.name: value.type.tensor_type.elem_type for value in found.after.graph.value_info}
    assert kinds[made.output[0]] == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize("largest", [1e5, 1e-6])
def test_a_register_that_the_type_does_not_hold_stays_wide(largest: float) -> None:
    found = rewritten(example(largest=largest), ReplaceNarrow())
    assert found.report.count == 0
    assert "than its type holds" in found.report.misses[0].reason


def test_a_register_of_zeros_is_held() -> None:
    assert rewritten(example(largest=0.0), ReplaceNarrow()).report.count == 1


def test_what_is_computed_for_a_token_stays_wide() -> None:
    found = rewritten(example(("Where(mask, chosen, wide)", "Where(mask, wide, wide)")), ReplaceNarrow())
    assert found.report.count == 0
    assert "no constant row" in found.report.misses[0].reason
