"""Laws of the range methods, on any magnitudes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.method_names import METHOD_NAMES
from calibration.methods import METHODS, OUTLIER_AWARE, entropy, minmax, mse, percentile
from calibration.methods.magnitudes import Magnitudes

RANGES = {
    "minmax": minmax.range_of,
    "percentile": percentile.range_of,
    "entropy": entropy.range_of,
    "mse": mse.range_of,
}
SEEDS = st.integers(0, 10_000)


def _values(seed: int, size: int = 4000) -> np.ndarray:
    """Heavy-tailed, as activations are."""
    return np.random.default_rng(seed).standard_t(4, size).astype(np.float32)


@pytest.mark.parametrize("name", RANGES)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_no_range_exceeds_what_was_seen(name: str, seed: int) -> None:
    values = _values(seed)
    limit = RANGES[name](Magnitudes.of(values))
    assert 0 < limit <= np.abs(values).max() * (1 + 1e-6)


@pytest.mark.parametrize("name", RANGES)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, power=st.integers(-8, 8))
def test_a_range_scales_with_its_tensor(name: str, seed: int, power: int) -> None:
    values = _values(seed)
    once, scaled = (RANGES[name](Magnitudes.of(v)) for v in (values, values * np.float32(2.0**power)))
    assert scaled == pytest.approx(once * 2.0**power, rel=1e-5)


@pytest.mark.parametrize("name", RANGES)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, cut=st.integers(1, 3999))
def test_a_range_depends_on_neither_order_nor_batches(name: str, seed: int, cut: int) -> None:
    values = _values(seed)
    parts = Magnitudes.of(values[cut:]).merged(Magnitudes.of(values[:cut]))
    assert RANGES[name](parts) == RANGES[name](Magnitudes.of(values))


@pytest.mark.parametrize("name", RANGES)
def test_a_tensor_of_zeros_has_no_range(name: str) -> None:
    assert RANGES[name](Magnitudes.of(np.zeros(100, np.float32))) == 0


def test_clipping_pays_where_one_value_is_far_out() -> None:
    values = np.append(np.random.default_rng(0).standard_normal(100_000), 100).astype(np.float32)
    seen = Magnitudes.of(values)
    assert minmax.range_of(seen) == pytest.approx(100)
    for clipping in (percentile.range_of, entropy.range_of):
        assert clipping(seen) < 10
    error = {name: seen.error(range_of(seen)) for name, range_of in RANGES.items()}
    assert error["mse"] == min(error.values())


def test_the_estimated_error_is_the_real_one() -> None:
    values = _values(1, 200_000)
    seen = Magnitudes.of(values)
    for limit in (3.0, 8.0, float(seen.largest)):
        step = limit / 127
        real = np.square(np.clip(np.rint(values / step), -127, 127) * step - values).mean()
        assert seen.error(limit) == pytest.approx(real, rel=0.03)


def test_the_default_method_is_the_first() -> None:
    assert next(iter(METHODS.values())) is OUTLIER_AWARE
    assert tuple(METHODS) == METHOD_NAMES
