"""Steps of blocks: numbers that a file holds, no worse than whole ranges, and none that spoils a block of zeros."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.rounding import compensated, nearest
from calibration.weight_steps import block_unit, by_input, format_steps, power_of_two
from graphs.quantize.schemes import EIGHT_BIT_FLOAT, FOUR_BIT_FLOAT, FOUR_BIT_FLOAT_WEIGHT, FOUR_BIT_WEIGHT, GemmFormat

BLOCKED = pytest.mark.parametrize("form", [FOUR_BIT_WEIGHT, FOUR_BIT_FLOAT_WEIGHT], ids=lambda form: form.name)
ANY = st.sampled_from([FOUR_BIT_WEIGHT, FOUR_BIT_FLOAT_WEIGHT, FOUR_BIT_FLOAT])


def _weight(seed: int, inputs: int = 64, outputs: int = 6, size: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((inputs, outputs)) * np.exp(rng.standard_normal((inputs, 1)))
    return np.asarray(size * drawn, np.float32)


def _held(values: np.ndarray, steps: np.ndarray, form: GemmFormat) -> np.ndarray:
    each = by_input(steps, len(values))
    return np.asarray(nearest(values, each, form.weights) * each)


@given(form=ANY, seed=st.integers(0, 500), size=st.sampled_from([1e-4, 1.0, 300.0]))
def test_steps_are_numbers_that_the_file_holds(form: GemmFormat, seed: int, size: float) -> None:
    weight = _weight(seed, size=size)
    for importance in (None, np.square(np.arange(64, dtype=np.float32))):
        steps = format_steps(weight, form, importance)
        assert form.block is not None and steps.shape == (64 // form.block, 6) and (steps > 0).all()
        unit = block_unit(weight, form)
        if form.scales is None:
            np.testing.assert_array_equal(steps.astype(np.float16).astype(np.float32), steps)
        else:
            np.testing.assert_array_equal(form.scales.codes(steps / unit).astype(np.float32) * np.float32(unit), steps)
            assert np.log2(unit) == round(np.log2(unit))
            assert float(np.float16(unit)) == unit


@given(form=ANY, seed=st.integers(0, 500))
def test_nothing_is_clipped_without_importance(form: GemmFormat, seed: int) -> None:
    """But for what rounding a scale itself takes: less than half of the distance to the largest number."""
    weight = _weight(seed)
    steps = by_input(format_steps(weight, form), len(weight))
    last = 1.0 if form.weights.is_float else 0.5
    assert (np.abs(weight) <= steps * (form.weights.largest + last)).all()
    assert (np.abs(_held(weight, format_steps(weight, form), form) - weight) <= steps * last * 1.0001).all()


@given(form=ANY, seed=st.integers(0, 500), peak=st.floats(0, 6))
def test_importance_never_makes_the_error_larger(form: GemmFormat, seed: int, peak: float) -> None:
    weight, importance = _weight(seed), np.exp(np.linspace(0, peak, 64)).astype(np.float32)
    errors = [
        (np.square(_held(weight, steps, form) - weight) * importance[:, None]).reshape(64 // form.block, form.block, -1)  # type: ignore[operator]
        for steps in (format_steps(weight, form), format_steps(weight, form, importance))
    ]
    whole, chosen = (each.sum(axis=1, dtype=np.float64) for each in errors)
    assert (chosen <= whole * (1 + 1e-5) + 1e-12).all()


@BLOCKED
def test_a_few_large_weights_are_clipped_where_all_others_gain(form: GemmFormat) -> None:
    """INT4 and E2M1 both: a range just above half of the codes in use wastes the rest."""
    weight = _weight(3, inputs=64, outputs=64)
    chosen, whole = format_steps(weight, form, np.ones(64, np.float32)), format_steps(weight, form)
    assert (chosen < whole).mean() > 0.2
    assert (chosen <= whole).all()


@BLOCKED
@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
def test_blocks_and_channels_of_zeros_stay_zeros(form: GemmFormat, size: float) -> None:
    assert form.block is not None
    weight = _weight(1, size=size)
    weight[: form.block, 2] = 0
    weight[:, 4] = 0
    for importance in (None, np.ones(64, np.float32)):
        steps = format_steps(weight, form, importance)
        stored = steps
        if form.scales is not None:  # as the graph stores them
            unit = block_unit(weight, form)
            stored = form.scales.codes(steps / unit).astype(np.float32) * np.float32(unit)
        made = form.weights.codes(nearest(weight, by_input(steps, 64), form.weights)).astype(np.float32)
        made = made * by_input(stored, 64)
        assert np.isfinite(made).all()
        assert not made[: form.block, 2].any() and not made[:, 4].any()


@BLOCKED
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-8, 1e6])
def test_sizes_beyond_the_scales_leave_finite_numbers(form: GemmFormat, size: float) -> None:
    weight = _weight(1) * np.float32(size)
    steps, unit = format_steps(weight, form), np.float32(block_unit(weight, form))
    assert (steps > 0).all() and np.isfinite(steps).all()
    if form.scales is not None:
        assert np.isfinite(form.scales.codes(steps / unit).astype(np.float32)).all()
    assert np.isfinite(_held(weight, steps, form)).all()


def test_blocks_that_do_not_divide_are_no_blocks() -> None:
    with pytest.raises(ValueError, match="reshape"):
        format_steps(_weight(0, inputs=40), FOUR_BIT_WEIGHT)


def test_a_format_without_blocks_has_a_step_for_each_channel() -> None:
    weight = _weight(0)
    steps = format_steps(weight, EIGHT_BIT_FLOAT)
    np.testing.assert_allclose(steps, np.abs(weight).max(axis=0) / 448)
    assert by_input(steps, 64) is steps


def test_steps_are_repeated_for_the_inputs_of_their_block() -> None:
    steps = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(by_input(steps, 4), [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]])


@given(st.floats(1e-3, 3e4))
def test_the_next_power_of_two_is_less_than_twice(least: float) -> None:
    found = power_of_two(least)
    assert least <= found < 2 * least or (found, found / 2) == (2.0**-14, 2.0**-15)


def test_powers_end_where_fp16_does() -> None:
    assert (power_of_two(0), power_of_two(1e-9), power_of_two(1e9)) == (2.0**-14, 2.0**-14, 2.0**15)


@BLOCKED
def test_later_codes_make_up_for_earlier_ones_with_steps_of_blocks(form: GemmFormat) -> None:
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((3000, 24)) @ rng.standard_normal((24, 192))
    x = (mixed + 0.2 * rng.standard_normal(mixed.shape)).astype(np.float32)
    weight = rng.standard_normal((192, 12)).astype(np.float32)
    hessian = x.T @ x
    steps = by_input(format_steps(weight, form, np.diagonal(hessian)), 192)
    near, made_up = nearest(weight, steps, form.weights), compensated(weight, steps, hessian, form.weights)
    np.testing.assert_array_equal(form.weights.nearest(made_up), made_up)
    errors = [np.square(x @ (codes * steps - weight)).sum() for codes in (near, made_up)]
    assert errors[1] < errors[0] / 2
    np.testing.assert_array_equal(compensated(weight, steps, np.eye(192), form.weights), near)
