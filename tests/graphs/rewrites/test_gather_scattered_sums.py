"""Sums that are scattered to fixed places, for a runtime that scatters without sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphs.rewrites.gather_scattered_sums import GatherScatteredSums
from tests.graphs.optimizing import infer, listing, parsed, rewritten

TEXT = """\
g (float[batch, 5, 2] x, float[batch, 3, 2] u) => (float[batch, 5, 2] out) {
  ["m/Shape"] s = Shape(u)
  ["m/Expand"] i = Expand(places, s)
  ["m/ScatterElements"] out = ScatterElements<axis=1, reduction="add">(x, i, u)
}
"""
GOLDEN = """\
dsr/optimize/m/ScatterElements.padded: dsr/optimize/m/ScatterElements.padded = \
Pad(u, dsr/optimize/m/ScatterElements.pads, , dsr/optimize/m/ScatterElements.axis)
dsr/optimize/m/ScatterElements.gathered: dsr/optimize/m/ScatterElements.gathered = \
Gather(dsr/optimize/m/ScatterElements.padded, dsr/optimize/m/ScatterElements.rows)
dsr/optimize/m/ScatterElements.sum: out = Add(x, dsr/optimize/m/ScatterElements.gathered)
"""


def example(places: Any = ((4,), (0,), (-3,))) -> onnx.ModelProto:
    """A graph in which the rewrite matches."""
    return parsed(TEXT, {"places": np.array(places, np.int64)[None]})


def test_golden_text() -> None:
    assert listing(rewritten(example(), GatherScatteredSums()).after) == GOLDEN


@pytest.mark.parametrize("places", [([4], [0], [-3]), ([1], [2], [3])])
def test_the_sums_are_those_of_numpy_and_of_the_scatter(places: Any) -> None:
    found = rewritten(example(places), GatherScatteredSums())
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((2, 5, 2), np.float32), "u": rng.standard_normal((2, 3, 2), np.float32)}
    wanted = feed["x"].copy()
    np.add.at(wanted, (slice(None), np.ravel(places)), feed["u"])
    np.testing.assert_array_equal(infer(found.after, feed)[0], wanted)
    np.testing.assert_array_equal(infer(found.before, feed)[0], wanted)


def test_all_places_in_order_are_added_as_they_are() -> None:
    text = TEXT.replace("batch, 3, 2] u", "batch, 5, 2] u")
    model = parsed(text, {"places": np.arange(5)[None, :, None]})
    assert [node.op_type for node in rewritten(model, GatherScatteredSums()).after.graph.node] == ["Add"]


def test_it_is_done_once() -> None:
    after = rewritten(example(), GatherScatteredSums()).after
    assert rewritten(after, GatherScatteredSums()).report.count == 0


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (example(([4], [0], [4])), "a place occurs twice"),
        (example(([4], [0], [-1])), "a place occurs twice"),
        (example(([4, 1], [0, 0], [2, 2])), "no constants along one axis"),
        (parsed(TEXT.replace("float[batch, 3, 2] u)", "float[batch, 3, 2] u, int64[1, 3, 1] places)"), {}), "no const"),
        (
            parsed(
                TEXT.replace("batch, 5, 2] x", "batch, 5, 4] x").replace("5, 2] out", "5, 4] out"),
                {"places": np.array([[[4], [0], [1]]])},
            ),
            "a part of",
        ),
    ],
)
def test_other_places_stay_scattered(model: onnx.ModelProto, reason: str) -> None:
    report = rewritten(model, GatherScatteredSums()).report
    assert report.count == 0 and reason in report.misses[0].reason


def test_a_scatter_that_replaces_is_none() -> None:
    model = parsed(TEXT.replace(', reduction="add"', ""), {"places": np.array([[[4], [0], [1]]])})
    report = rewritten(model, GatherScatteredSums()).report
    assert report.count == 0 and not report.misses
