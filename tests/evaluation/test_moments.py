"""Moments of merged parts are those of all rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsr_export.errors import ExportError
from dsr_export.evaluation.moments import Moments, merged


@settings(max_examples=50, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    width=st.integers(1, 6),
    offset=st.sampled_from([0.0, 1e3, -1e6]),
    seed=st.integers(0, 99),
)
def test_merging_parts_gives_the_moments_of_all_rows(cuts: list[int], width: int, offset: float, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((sum(cuts) + 1, width)) + offset
    parts = np.split(rows, np.cumsum(cuts))
    found = merged(Moments.of(part) for part in parts)
    assert found.count == len(rows)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(rows.T).reshape(width, width), rtol=1e-6, atol=1e-9)


def test_what_goes_through_arrays_is_the_same() -> None:
    made = Moments.of(np.random.default_rng(0).standard_normal((5, 3)))
    again = Moments.from_arrays(made.arrays("a/"), "a/")
    assert again.count == 5 and (again.mean == made.mean).all() and (again.scatter == made.scatter).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ExportError, match="NaN or infinities"):
        Moments.of(np.array([[0.0, value]]))
