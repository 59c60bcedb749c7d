"""A median's comparison as counts: the same decisions for whatever the norms are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from graphs.rewrites.engine.count_below import LARGEST, CountBelow
from tests.graphs.optimizing import infer, listing, parsed, rewritten

MEDIAN = """\
g (float[batch, 7] norms) => (bool[batch, 7] out) {
  ["dsr/lower/site/half"] half, order = TopK<axis = 1, largest = 1, sorted = 0>(norms, rank)
  ["dsr/lower/site/median"] median = ReduceMin<keepdims = 1>(half, axis)
  ["dsr/lower/site/scaled"] scaled = Mul(median, factor)
  ["dsr/lower/site/limit"] limit = Min(scaled, most)
  ["dsr/lower/site/outlier"] out = Greater(norms, limit)
}
"""
GOLDEN = """\
dsr/lower/site/half.scaled: dsr/lower/site/half.scaled = Mul(norms, dsr/lower/site/half.factor)
dsr/lower/site/half.own_norm: dsr/lower/site/half.own_norm = Unsqueeze(norms, dsr/lower/site/half.columns)
dsr/lower/site/half.limits: dsr/lower/site/half.limits = Min(dsr/lower/site/half.scaled, dsr/lower/site/half.most)
dsr/lower/site/half.each: dsr/lower/site/half.each = Unsqueeze(dsr/lower/site/half.limits, dsr/lower/site/half.rows)
dsr/lower/site/half.below: dsr/lower/site/half.below = Less(dsr/lower/site/half.each, dsr/lower/site/half.own_norm)
dsr/lower/site/half.ones: dsr/lower/site/half.ones = Cast(dsr/lower/site/half.below)
dsr/lower/site/half.count: dsr/lower/site/half.count = ReduceSum(dsr/lower/site/half.ones, dsr/lower/site/half.last)
dsr/lower/site/half.mask: out = GreaterOrEqual(dsr/lower/site/half.count, dsr/lower/site/half.needed)
"""
NORMS = st.one_of(
    st.floats(0, LARGEST, width=32), st.sampled_from([-1.0, 0.0, 1.0, 1.5, 3.0, 1e-45, float(LARGEST), float("inf")])
)


def example(*changes: tuple[str, str], factor: float = 1.5, rank: int = 4) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    values = {"factor": np.array([factor], np.float32), "most": np.array(LARGEST, np.float32)}
    values |= {"rank": np.array([rank]), "axis": np.array([1])}
    text = MEDIAN
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parsed(text, values)


@settings(max_examples=150, deadline=None)
@given(norms=arrays(np.float32, (3, 7), elements=NORMS), rank=st.integers(1, 7), factor=st.floats(2**-20, 64, width=32))
def test_the_decisions_are_the_same(norms: np.ndarray, rank: int, factor: float) -> None:
    model = example(factor=factor, rank=rank)
    found = rewritten(model, CountBelow())
    assert found.report.count == 1
    before, after = (infer(each, {"norms": norms}, optimized=False)[0] for each in (found.before, found.after))
    np.testing.assert_array_equal(after, before)


def test_without_a_bound_on_the_limit_they_are_the_same_for_finite_norms(rng: np.random.Generator) -> None:
    found = rewritten(
        example(('  ["dsr/lower/site/limit"] limit = Min(scaled, most)\n', ""), ("norms, limit", "norms, scaled")),
        CountBelow(),
    )
    norms = rng.uniform(0, 4, (50, 7)).astype(np.float32)
    before, after = (infer(each, {"norms": norms}, optimized=False)[0] for each in (found.before, found.after))
    assert before.any()
    np.testing.assert_array_equal(after, before)


def test_golden_text() -> None:
    assert listing(rewritten(example(), CountBelow()).after) == GOLDEN


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ((), {"factor": -1.0}, "not scaled by a positive constant"),
        ((), {"factor": 0.0}, "not scaled by a positive constant"),
        ((("Min(scaled, most)", "Min(scaled, factor)"),), {}, "not what those numbers are compared with"),
        ((("Greater(norms, limit)", "Greater(limit, norms)"),), {}, "not what those numbers are compared with"),
        ((("ReduceMin", "ReduceMax"),), {}, "smallest value alone"),
    ],
)
def test_what_is_no_median_is_left_alone(changes: tuple, options: dict, reason: str) -> None:
    found = rewritten(example(*changes, **options), CountBelow())
    assert found.report.count == 0
    assert reason in found.report.misses[0].reason


def test_a_models_own_topk_is_none_of_ours(rng: np.random.Generator) -> None:
    """Its minimum here is that of all images."""
    own = example(("dsr/lower/site/half", "head/TopK"), ("ReduceMin<keepdims = 1>(half, axis)", "ReduceMin(half)"))
    found = rewritten(own, CountBelow())
    assert (found.report.count, found.report.misses) == (0, ())
    norms = (rng.uniform(1, 4, (3, 7)) * np.array([[1], [5], [25]])).astype(np.float32)
    before, after = (infer(each, {"norms": norms}, optimized=False)[0] for each in (found.before, found.after))
    np.testing.assert_array_equal(after, before)
