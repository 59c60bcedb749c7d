"""Weights to codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.rounding import BLOCK, compensated, nearest
from calibration.smoothing import smoothing_factors
from calibration.weight_steps import weight_steps


def _correlated(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    mixed = rng.standard_normal((rows, width // 4)) @ rng.standard_normal((width // 4, width))
    return (mixed + 0.2 * rng.standard_normal((rows, width))).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), width=st.integers(1, 40), outputs=st.integers(1, 20))
def test_nearest_codes_are_within_half_a_step_and_nothing_is_clipped(seed: int, width: int, outputs: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((width, outputs)).astype(np.float32)
    steps = weight_steps(weight)
    error = np.abs(nearest(weight, steps) * steps - weight)
    assert (error <= steps * 0.5001).all()


def test_a_channel_of_zeros_has_a_step() -> None:
    assert weight_steps(np.zeros((3, 2), np.float32)).tolist() == [1, 1]


def test_compensation_beats_the_nearest_where_inputs_are_correlated(rng: np.random.Generator) -> None:
    x = _correlated(rng, 3000, 2 * BLOCK + 5)
    weight = rng.standard_normal((x.shape[1], 24)).astype(np.float32)
    steps = weight_steps(weight)
    error = {
        name: np.square(x @ (codes * steps - weight)).sum()
        for name, codes in (("near", nearest(weight, steps)), ("made up", compensated(weight, steps, x.T @ x)))
    }
    assert error["made up"] < error["near"] / 4


def test_without_correlation_compensation_is_the_nearest(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((BLOCK + 3, 8)).astype(np.float32)
    steps = weight_steps(weight)
    np.testing.assert_array_equal(compensated(weight, steps, np.eye(BLOCK + 3)), nearest(weight, steps))


def test_inputs_never_seen_leave_the_nearest(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((6, 3)).astype(np.float32)
    steps = weight_steps(weight)
    np.testing.assert_array_equal(compensated(weight, steps, np.zeros((6, 6))), nearest(weight, steps))


def test_smoothing_evens_out_a_channel_and_leaves_the_product(rng: np.random.Generator) -> None:
    x, weight = rng.standard_normal((100, 16)), rng.standard_normal((16, 8))
    x[:, 3] *= 300
    factors = smoothing_factors(np.abs(x).max(axis=0), weight, 0.8)
    np.testing.assert_allclose((x / factors) @ (weight * factors[:, None]), x @ weight, rtol=1e-5)
    largest = np.abs(x / factors).max(axis=0)
    assert largest[3] / np.median(largest) < 10
    assert np.exp(np.log(factors).mean()) == pytest.approx(1, rel=1e-3)


def test_channels_that_are_always_zero_keep_their_factor() -> None:
    factors = smoothing_factors(np.array([0.0, 1, 4]), np.ones((3, 2)), 0.5)
    assert factors[0] == 1
    assert np.isfinite(factors).all()
