"""Which form a GEMM's input gets: judged by the error at the output, and careful with constant ranges."""

from __future__ import annotations

import numpy as np
import pytest

from calibration import activation_schemes
from calibration.activation_schemes import Choice, choose, quantised_rows
from calibration.methods import METHODS, OUTLIER_AWARE
from calibration.places import TokenPlaces
from calibration.stats import ActivationStats
from calibration.token_roles import RegisterRows

TOKENS, WIDTH, OUT = 16, 32, 24
WEIGHT = np.random.default_rng(7).standard_normal((WIDTH, OUT)).astype(np.float32)


def _stats(x: np.ndarray, registers: int = 0) -> ActivationStats:
    stats = ActivationStats("h", WIDTH, TOKENS, RegisterRows(count=registers, patches=TOKENS - registers))
    ids = np.arange(len(x))
    stats.observe(x, ids, ids % 4, np.ones(len(x)))
    return stats


def _even(count: int = 32) -> np.ndarray:
    """Tokens of equal magnitude, as a norm leaves them."""
    x = np.random.default_rng(0).standard_normal((count, TOKENS, WIDTH)).astype(np.float32)
    return np.asarray(x / np.abs(x).max(axis=2, keepdims=True))


def _chosen(x: np.ndarray, *, normed: bool, foldable: bool = True, registers: int = 0) -> Choice:
    return choose(_stats(x, registers), WEIGHT, OUTLIER_AWARE, foldable=foldable, normed=normed)


def test_behind_a_norm_a_constant_range_is_enough() -> None:
    assert _chosen(_even(), normed=True).activation.rows == "none"


def test_elsewhere_tokens_that_were_not_seen_may_be_larger() -> None:
    assert _chosen(_even(), normed=False).activation.rows == "dynamic"


def test_in_a_format_to_go_up_to_a_constant_range_may_cost_more() -> None:
    """It is compared with four bits of mantissa, and a constant range is the one that costs no kernel."""
    x = _even()
    x[:, 3] *= 2
    stats = _stats(x)
    first, finer = (
        choose(stats, WEIGHT, OUTLIER_AWARE, foldable=True, normed=True, finer=each) for each in (False, True)
    )
    assert (first.activation.rows, finer.activation.rows) == ("dynamic", "none")
    assert first.snr_db - 8 < finer.snr_db < first.snr_db - 4
    alone = choose(stats, WEIGHT, OUTLIER_AWARE, foldable=True, normed=False, finer=True)
    assert alone.activation.rows == "dynamic"


def test_an_outlier_token_makes_rows_dynamic_even_behind_a_norm() -> None:
    x = _even()
    x[:, 3] *= 30
    assert _chosen(x, normed=True).activation.rows == "dynamic"


def test_a_constant_range_has_headroom() -> None:
    x = _even()
    choice = _chosen(x, normed=True)
    unseen = 1.3 * x[0] / choice.factors
    codes = quantised_rows(unseen, choice.activation, np.arange(TOKENS))
    np.testing.assert_allclose(codes, unseen, atol=choice.activation.step * 0.51)


def test_an_outlier_channel_is_smoothed_where_that_can_be_folded() -> None:
    x = _even()
    x[..., 5] *= 50
    smoothed, plain = (_chosen(x, normed=False, foldable=foldable) for foldable in (True, False))
    assert smoothed.factors[5] == smoothed.factors.max() > 3
    assert not plain.smooths
    assert smoothed.snr_db > plain.snr_db + 6


@pytest.mark.parametrize("name", [name for name in METHODS if name != "outlier-aware"])
def test_plain_methods_give_one_range_and_fold_nothing(name: str) -> None:
    choice = choose(_stats(_even()), WEIGHT, METHODS[name], foldable=True, normed=True)
    assert (choice.activation.rows, choice.smooths) == ("none", False)


def test_a_tensor_of_zeros_has_a_step_all_the_same() -> None:
    choice = _chosen(np.zeros((4, TOKENS, WIDTH), np.float32), normed=True)
    assert choice.activation.step > 0
    assert np.isfinite(choice.factors).all()


def test_constant_factors_of_corners_are_better_than_one_range_and_chosen_only_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, ids = _even(), np.arange(32)
    x[:, [0, 3, 12, 15]] *= 40  # of 4 x 4 tokens
    stats = ActivationStats("h", WIDTH, TOKENS, RegisterRows(), places=TokenPlaces(grid=(1, 4, 4)))
    stats.observe(x, ids, ids % 4, np.ones(32))
    untold = _stats(x)
    assert choose(stats, WEIGHT, OUTLIER_AWARE, foldable=False).activation.rows == "dynamic"
    monkeypatch.setattr(activation_schemes, "MARGIN_DB", {"none": 0.0, "static": 0.0, "dynamic": 100.0})
    told, one_range = (choose(each, WEIGHT, OUTLIER_AWARE, foldable=False) for each in (stats, untold))
    assert told.activation.rows == "static" and one_range.activation.rows == "none"
    factors = told.activation.row_factors
    assert factors is not None and (factors[[0, 3, 12, 15]] > 20 * factors[5]).all()
    assert told.snr_db > one_range.snr_db + 6
