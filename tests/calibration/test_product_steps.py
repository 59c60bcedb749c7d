"""Whether products are handed on as codes, and that what was seen of them fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.activation_schemes import Choice
from calibration.product_steps import MARGIN_DB, ProductRange, largest_products, product_range, product_steps, raised
from calibration.stats import ActivationStats
from calibration.token_roles import RegisterRows
from calibration.weight_steps import format_steps, weight_steps
from graphs.quantize.formats import FP8, INT8
from graphs.quantize.quantizers import Activation
from graphs.quantize.schemes import EIGHT_BIT_FLOAT, FOUR_BIT_WEIGHT, INTEGER, GemmFormat

TOKENS, WIDTH, OUT = 8, 256, 48
WEIGHT = np.random.default_rng(7).laplace(size=(WIDTH, OUT)).astype(np.float32)
EVEN = np.random.default_rng(0).laplace(size=(64, TOKENS, WIDTH)).astype(np.float32)


def _stats(x: np.ndarray = EVEN) -> ActivationStats:
    stats = ActivationStats("h", WIDTH, TOKENS, RegisterRows(count=0, patches=TOKENS))
    ids = np.arange(len(x))
    stats.observe(x, ids, ids % 4, np.ones(len(x)))
    return stats


def _choice(stats: ActivationStats, rows: str = "none") -> Choice:
    step = float(stats.row_largest.max()) / 127 if rows == "none" else 1 / 127
    activation = Activation(step=step, rows=rows)  # type: ignore[arg-type]
    return Choice(activation=activation, factors=np.ones(WIDTH, np.float32), snr_db=0.0)


def _range(
    weight: np.ndarray, x: np.ndarray = EVEN, rows: str = "none", form: GemmFormat = INTEGER, seen: float = 0.0
) -> ProductRange | None:
    stats = _stats(x)
    choice = _choice(stats, rows)
    choice = replace(choice, activation=replace(choice.activation, format=form.activations))
    return product_range(stats, weight, choice, form, np.full(weight.shape[1], seen, np.float32))


def _reach(weight: np.ndarray, x: np.ndarray = EVEN, rows: str = "none", form: GemmFormat = INTEGER) -> float | None:
    found = _range(weight, x, rows, form)
    return None if found is None else found.reach


@pytest.mark.parametrize("rows", ["none", "dynamic"])
def test_products_of_even_channels_are_codes_and_all_that_was_seen_fits(rows: str) -> None:
    stats, found = _stats(), _range(WEIGHT, rows=rows)
    assert found is not None
    own = product_steps(raised(weight_steps(WEIGHT), found.largest, found.reach), found.reach)
    x = stats.sample.rows if rows == "none" else stats.sample.rows / np.abs(stats.sample.rows).max(1, keepdims=True)
    products = np.abs(x @ WEIGHT).max(axis=0)
    assert (products <= own * INT8.largest).all()
    assert (own * INT8.largest / products).min() < 1.3  # and not much more than that


def test_what_whole_calls_made_fits_as_well() -> None:
    """The sample may lack every row of a token."""
    plain, found = _range(WEIGHT), _range(WEIGHT, seen=1.3 * float(np.abs(EVEN @ WEIGHT).max()))
    assert plain is not None and found is not None and found.reach > plain.reach
    own = product_steps(raised(weight_steps(WEIGHT), found.largest, found.reach), found.reach)
    assert (own * INT8.largest >= 1.3 * np.abs(EVEN @ WEIGHT).max()).all()
    assert _range(WEIGHT, seen=50 * float(np.abs(EVEN @ WEIGHT).max())) is None  # all others would be coarse


def test_one_channel_of_large_products_does_not_make_all_others_coarse() -> None:
    """It gets a larger step of its weight instead."""
    x = EVEN.copy()
    x[..., :8] = 4
    weight = WEIGHT.copy()
    weight[:8, 5] = 4 * np.abs(WEIGHT[:, 5]).max()
    reach, plain = _reach(weight, x), _reach(np.delete(weight, 5, axis=1), x)
    assert reach is not None and plain is not None
    assert reach < 1.25 * plain
    found, steps = _range(weight, x), weight_steps(weight)
    assert found is not None
    larger = raised(steps, found.largest, reach) / steps
    assert larger[5] == larger.max() and np.median(larger) < 1.1


def test_products_whose_codes_cost_too_much_stay_floats() -> None:
    """Where a few tokens lie along the weights their products are far larger than those of all others."""
    weight = np.repeat(np.sign(WEIGHT[:, :1]), OUT, axis=1) * np.abs(WEIGHT)
    along = EVEN.copy()
    along[:, 3] = np.abs(along[:, 3]) * np.sign(WEIGHT[:, 0])
    assert _reach(weight) is not None
    assert _reach(weight, along) is None


def test_only_products_of_codes_are_codes() -> None:
    assert _reach(WEIGHT, form=FOUR_BIT_WEIGHT) is None


def test_codes_that_are_floats_hold_channels_of_any_size() -> None:
    """No channel needs larger steps of its weight, and what was not seen has two binades."""
    weight = WEIGHT.copy()
    weight[:8, 5] = 4 * np.abs(WEIGHT[:, 5]).max()
    x = EVEN.copy()
    x[..., :8] = 4
    found, steps = _range(weight, x, form=EIGHT_BIT_FLOAT), format_steps(weight, EIGHT_BIT_FLOAT)
    assert found is not None
    np.testing.assert_allclose(raised(steps, found.largest, found.reach), steps, rtol=1e-6)
    own = product_steps(steps, found.reach, FP8)
    seen = np.abs(x.reshape(-1, WIDTH) @ weight).max(axis=0)
    assert (seen * 3 < own * FP8.largest).all()


def test_where_nothing_but_zero_was_seen_there_is_no_range() -> None:
    assert _reach(np.zeros_like(WEIGHT)) is None


def test_a_channel_of_zeros_changes_nothing() -> None:
    """Its step is 1, which says nothing of its products."""
    weight = np.concatenate([WEIGHT, np.zeros((WIDTH, 3), np.float32)], axis=1)
    assert _reach(weight) == pytest.approx(_reach(WEIGHT))


def test_the_sample_may_lack_the_largest_rows() -> None:
    """The range of codes has room for them, as far as the input's own range tells."""
    plain, outlier = _stats(), _stats()
    outlier.row_largest[3] *= 1.5
    choice, none = _choice(outlier), np.zeros(OUT, np.float32)
    ranges = [product_range(stats, WEIGHT, choice, INTEGER, none) for stats in (plain, outlier)]
    assert ranges[0] is not None and ranges[1] is not None
    wider = outlier.row_largest.max() / plain.row_largest.max()
    np.testing.assert_allclose(ranges[1].largest / ranges[0].largest, wider, rtol=1e-5)
    even = [product_range(stats, WEIGHT, _choice(stats, "dynamic"), INTEGER, none) for stats in (plain, outlier)]
    assert even[0] is not None and even[1] is not None
    np.testing.assert_array_equal(even[0].largest, even[1].largest)


def test_products_are_of_rows_without_their_factors() -> None:
    rows, tokens = EVEN.reshape(-1, WIDTH), np.tile(np.arange(TOKENS), len(EVEN))
    choice = _choice(_stats(), "dynamic")
    made = largest_products(rows, tokens, WEIGHT, choice)
    np.testing.assert_allclose(largest_products(rows * 30, tokens, WEIGHT, choice), made, rtol=1e-4)
    even = rows / np.abs(rows).max(axis=1, keepdims=True)
    np.testing.assert_allclose(made, np.abs(even @ WEIGHT).max(axis=0), rtol=0.05)


@given(scale=st.integers(-10, 10), channels=st.lists(st.integers(-5, 5), min_size=OUT, max_size=OUT))
def test_sizes_of_channels_and_of_the_input_change_nothing(scale: int, channels: list[int]) -> None:
    """Steps are relative to the weight's, so that powers of two cancel."""
    sizes = np.asarray(2.0 ** np.array(channels), np.float32)
    reach, scaled = _reach(WEIGHT), _reach(WEIGHT * np.float32(2.0**scale))
    assert scaled == pytest.approx(reach)
    assert (_reach(WEIGHT * sizes) is None) == (reach is None)


def test_the_margin_is_what_all_else_costs() -> None:
    """Twice the noise is 3 dB."""
    assert 10 * np.log10(2) == pytest.approx(MARGIN_DB, abs=0.02)
