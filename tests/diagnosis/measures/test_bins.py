from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_export.diagnosis.measures.bins import LogBins, share_above

norms = st.lists(st.floats(0, 1e9, width=32), min_size=1, max_size=50)


@given(norms, st.floats(0.01, 1e4))
def test_every_value_is_counted_once_and_the_anchor_splits_exactly(values: list[float], anchor: float) -> None:
    bins, array = LogBins(anchor), np.array(values)
    counts = bins.count(array)
    assert counts.sum() == len(values)
    assert share_above(counts, bins.anchor_edge) == (array > bins.edges[bins.anchor_edge]).mean()


@given(norms, norms)
def test_counts_add_up(first: list[float], second: list[float]) -> None:
    bins = LogBins()
    together = bins.count(np.array(first + second))
    np.testing.assert_array_equal(bins.count(np.array(first)) + bins.count(np.array(second)), together)


def test_a_value_on_an_edge_is_not_above_it() -> None:
    bins = LogBins(30.0)
    counts = bins.count(np.array([30.0, np.nextafter(30.0, 31)]))
    assert share_above(counts, bins.anchor_edge) == 0.5


def test_what_is_not_finite_lies_above_everything() -> None:
    bins = LogBins()
    counts = bins.count(np.array([np.nan, np.inf, 1.0]))
    assert share_above(counts, len(bins.edges) - 1) == pytest.approx(2 / 3)


def test_quantiles_are_edges_that_bound_their_share() -> None:
    bins, values = LogBins(), np.random.default_rng(0).lognormal(0, 1, 4000)
    for share in (0.25, 0.5, 0.75, 0.999):
        edge = bins.quantile(bins.count(values), share)
        assert edge == pytest.approx(np.quantile(values, share), rel=0.05)
        assert (values <= edge).mean() >= share
    assert bins.quantile(np.zeros(bins.size), 0.5) == 0.0
