from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsr_export.diagnosis.measures.bins import LogBins
from dsr_export.diagnosis.thresholds import LEAST, MOST, TAIL, Limit, find_limit

BINS = LogBins()


def limit_of(*groups: npt.NDArray[np.float64]) -> Limit | None:
    return find_limit(BINS.count(np.concatenate(groups)), BINS)


def ordinary(count: int = 5000, spread: float = 0.2) -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).lognormal(0, spread, count)


@settings(max_examples=60)
@given(st.floats(8, 200), st.integers(1, 1600), st.floats(0, 0.3))
def test_a_separate_group_is_told_apart_exactly(size: float, count: int, spread: float) -> None:
    outliers = size * np.random.default_rng(1).lognormal(0, spread, count)
    outliers = np.maximum(outliers, 6.0)
    limit = limit_of(ordinary(), outliers)
    assert limit is not None
    assert limit.found == "gap"
    assert ordinary().max() < limit.value < outliers.min()
    assert limit.share == count / (5000 + count)


def test_the_lowest_gap_counts_so_that_mild_outliers_are_not_missed() -> None:
    limit = limit_of(ordinary(), np.full(100, 8.0), np.full(50, 500.0))
    assert limit is not None
    assert 2.5 < limit.value < 8


def test_one_population_has_no_outliers_however_many_tokens_there_are() -> None:
    assert limit_of(ordinary(200_000)) is None
    assert limit_of(np.ones(100)) is None
    assert find_limit(np.zeros(BINS.size, np.int64), BINS) is None


def test_a_wide_population_has_a_wide_limit() -> None:
    wide = ordinary(spread=0.5)
    assert wide.max() > TAIL
    assert limit_of(wide) is None


def test_outliers_that_fade_into_ordinary_tokens_are_found_by_the_tail() -> None:
    fading = np.geomspace(1, 60, 400)
    limit = limit_of(ordinary(), fading)
    assert limit is not None
    assert limit.found == "tail"
    assert limit.value == pytest.approx(TAIL, rel=0.02)
    assert limit.share == pytest.approx((fading > TAIL).sum() / 5400, rel=0.05)


def test_a_small_gap_near_the_median_is_none() -> None:
    assert limit_of(ordinary(spread=0.05), np.array([LEAST * 0.9])) is None


def test_what_is_more_than_a_quarter_is_no_outlier_of_a_gap() -> None:
    limit = limit_of(ordinary(700, 0.05), np.full(300, 20.0))
    assert MOST < 0.3
    assert limit is None or limit.found == "tail"


def test_broken_tokens_are_outliers() -> None:
    limit = limit_of(ordinary(), np.full(3, np.inf))
    assert limit is not None
    assert limit.share == 3 / 5003
