"""Weights whose products 16 bits hold, on CPUs that add neighbours in 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from calibration.rounding import compensated, nearest
from calibration.saturation import held_codes, held_steps
from calibration.weight_steps import weight_steps
from graphs.quantize.formats import INT8
from graphs.quantize.quantizers import CONDITION_CODE

WEIGHTS = nps.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.floats(-4, 4, width=32))


def _largest_sum(codes: np.ndarray, largest_code: int) -> int:
    """The largest sum of two neighbouring products, for the worst activations that there are."""
    pairs = codes[: len(codes) // 2 * 2].astype(int).reshape(-1, 2, codes.shape[1])
    unsigned = np.array([128 - largest_code, 128 + largest_code])
    worst = [np.abs(first * pairs[:, 0] + second * pairs[:, 1]) for first in unsigned for second in unsigned]
    return int(np.max(worst, initial=0))


@given(WEIGHTS, st.sampled_from([int(INT8.largest), CONDITION_CODE]))
def test_nearest_codes_never_overflow_and_need_no_correction(weight: np.ndarray, largest: int) -> None:
    steps = held_steps(weight, weight_steps(weight), largest)
    codes = nearest(weight, steps)
    assert _largest_sum(codes, largest) <= 32767
    np.testing.assert_array_equal(held_codes(codes, largest), codes)


@given(nps.arrays(np.int8, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.integers(-127, 127)))
def test_any_codes_are_held_and_those_that_were_stay(codes: np.ndarray) -> None:
    held = held_codes(codes, int(INT8.largest))
    assert _largest_sum(held, int(INT8.largest)) <= 32767
    assert np.abs(held.astype(int)).max() <= 127
    pairs = codes[: len(codes) // 2 * 2].astype(int).reshape(-1, 2, codes.shape[1]).sum(axis=1)
    changed = (held != codes)[: len(codes) // 2 * 2].reshape(-1, 2, codes.shape[1]).any(axis=1)
    assert (changed == (np.abs(pairs) > 128)).all()


def test_plain_steps_do_overflow() -> None:
    weight = np.array([[1.0], [1.0]], np.float32)
    assert _largest_sum(nearest(weight, weight_steps(weight)), int(INT8.largest)) > 32767


def test_opposite_signs_keep_their_step() -> None:
    weight = np.array([[1.0], [-1.0]], np.float32)
    np.testing.assert_array_equal(held_steps(weight, weight_steps(weight), int(INT8.largest)), weight_steps(weight))


@pytest.mark.parametrize("largest", [int(INT8.largest), CONDITION_CODE])
def test_compensated_codes_are_held_with_little_error(largest: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((256, 32)).astype(np.float32) @ rng.standard_normal((32, 32)).astype(np.float32)
    weight = rng.standard_normal((32, 16)).astype(np.float32)
    steps = held_steps(weight, weight_steps(weight), largest)
    codes = held_codes(compensated(weight, steps, x.T @ x), largest)
    assert _largest_sum(codes, largest) <= 32767
    error = x @ (codes * steps - weight)
    assert np.square(x @ weight).sum() / np.square(error).sum() > 1e4
