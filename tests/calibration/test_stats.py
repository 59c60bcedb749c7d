"""Streaming statistics: what they are, and that batches and their order do not matter."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.places import TokenPlaces
from calibration.row_sample import RowSample
from calibration.stats import SAMPLE_ROWS, ActivationStats, token_weights
from calibration.token_roles import RegisterRows, token_roles
from graphs.errors import ExportError

REGISTERS = RegisterRows(count=2, patches=10)


def _activations(count: int = 60) -> np.ndarray:
    """[count, 12, 8]: two register rows of another magnitude, and one outlier token in some images."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 12, 8)).astype(np.float32)
    x[:, :2] *= 7
    x[::5, 6] *= 50
    return x


def _observed(x: np.ndarray, batches: list[np.ndarray]) -> ActivationStats:
    stats = ActivationStats("h", 8, 12, REGISTERS)
    for rows in batches:
        stats.observe(x[rows], rows, rows % 4, np.ones(len(rows)))
    return stats


def test_neither_batch_size_nor_order_matters() -> None:
    x, ids = _activations(), np.arange(60)
    one = _observed(x, [ids])
    other = _observed(x, np.split(np.random.default_rng(1).permutation(ids), [1, 8, 30, 59]))
    np.testing.assert_array_equal(one.channel_largest, other.channel_largest)
    np.testing.assert_array_equal(one.row_largest, other.row_largest)
    np.testing.assert_array_equal(one.magnitudes.counts, other.magnitudes.counts)
    np.testing.assert_array_equal(one.sample.rows, other.sample.rows)
    np.testing.assert_allclose(one.hessian, other.hessian, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-5, atol=1e-6)
    assert one.roles_as_dict()["patch"]["amax"] == other.roles_as_dict()["patch"]["amax"]


def test_memory_is_bounded_whatever_is_seen() -> None:
    stats = _observed(np.tile(_activations(), (10, 1, 1)), [np.arange(600)])
    assert stats.sample.rows.shape == (SAMPLE_ROWS, 8)


def test_roles_are_told_apart() -> None:
    stats = _observed(_activations(), [np.arange(60)])
    roles = stats.roles_as_dict()
    assert {name: each["count"] for name, each in roles.items()} == {"patch": 588, "register": 120, "outlier": 12}
    assert roles["outlier"]["amax"] > 4 * roles["patch"]["amax"]
    assert roles["register"]["rms"] == pytest.approx(7, rel=0.1)
    assert [bucket["count"] for bucket in roles["register"]["buckets"]] == [30, 30, 30, 30]


def test_registers_stand_first_or_last_and_only_in_sequences_that_hold_them() -> None:
    assert RegisterRows(count=2, patches=4).mask(6).tolist() == [True, True, False, False, False, False]
    assert RegisterRows(count=2, patches=4, end="last").mask(6).tolist() == [False] * 4 + [True, True]
    assert not RegisterRows(count=2, patches=4).mask(4).any()
    behind = RegisterRows(count=2, patches=4, rows={9: 3})  # in front of them, three tokens of the prompt
    assert behind.mask(9).tolist() == [False] * 3 + [True, True] + [False] * 4
    assert behind.mask(6).tolist() == [True, True, False, False, False, False]


def test_an_outlier_is_judged_by_its_image() -> None:
    x = np.ones((2, 5, 3), np.float32)
    x[0, 2, 1], x[1] = 4.01, 100
    roles = token_roles(x, np.zeros(5, bool))
    assert np.argwhere(roles["outlier"]).tolist() == [[0, 2]]


def test_every_token_counts_alike() -> None:
    weights = token_weights(np.array([1.0, 1, 1, 1, 1e6]))
    np.testing.assert_allclose(weights[:4], 1)
    assert weights[4] * 1e6 < 2.1


def test_a_sample_keeps_heavier_rows_more_often() -> None:
    sample = RowSample(200, 1)
    x = np.repeat(np.array([0.0, 1.0], np.float32), 1000)[:, None, None]
    sample.offer(x, np.arange(2000), np.repeat([1.0, 4.0], 1000))
    assert 0.7 < sample.rows.mean() < 0.9


def test_nan_names_the_tensor() -> None:
    x = _activations(2)
    x[1, 3, 2] = np.nan
    with pytest.raises(ExportError, match="'h' becomes NaN or infinite"):
        _observed(x, [np.arange(2)])


def test_tokens_of_nan_count_as_zeros_where_they_are_the_models_own() -> None:
    x, ids, ones = _activations(), np.arange(60), np.ones(60)
    masked, empty = x.copy(), x.copy()
    masked[3, 5], empty[3, 5] = np.nan, 0
    stats, plain = (ActivationStats("h", 8, 12, REGISTERS, with_nan=own) for own in (True, False))
    stats.observe(masked, ids, ids % 4, ones)
    plain.observe(empty, ids, ids % 4, ones)
    np.testing.assert_array_equal(stats.hessian, plain.hessian)
    np.testing.assert_array_equal(stats.magnitudes.counts, plain.magnitudes.counts)
    for broken in (np.full_like(x, np.nan), np.where(x == x.max(), np.inf, x)):
        with pytest.raises(ExportError, match="NaN or infinite"):
            stats.observe(broken, ids, ids % 4, ones)


def test_sinks_that_are_known_by_place_have_roles_of_their_own() -> None:
    """A picture of 2 x 3 tokens, whose corners are sinks; and a prompt of 4, padded."""
    rng, ids = np.random.default_rng(0), np.arange(2)
    places = TokenPlaces(grid=(1, 2, 3), mask="mask")
    picture = ActivationStats("x", 8, 6, RegisterRows(), places=places)
    x = rng.standard_normal((2, 6, 8))
    x[:, [0, 2, 3, 5]] *= 50
    picture.observe(x, ids, ids, np.ones(2))
    found = picture.roles_as_dict()
    assert {role: figures["count"] for role, figures in found.items()} == {"patch": 4, "corner": 8}
    assert picture.own_rows.tolist() == [True, False, True] * 2
    assert picture.patch_magnitudes.largest < 5 < found["corner"]["amax"]
    prompt = ActivationStats("y", 8, 4, RegisterRows(), places=places)
    hidden = np.array([[1, 1, 0, 0], [1, 1, 1, 0]])
    prompt.observe(rng.standard_normal((2, 4, 8)), ids, ids, np.ones(2), hidden)
    assert {role: figures["count"] for role, figures in prompt.roles_as_dict().items()} == {"patch": 5, "padding": 3}
    assert not prompt.own_rows.any()  # which rows are padding depends on the prompt
    joined = ActivationStats("z", 8, 10, RegisterRows(), places=TokenPlaces(grid=(1, 2, 3), text=(0, 4)))
    joined.observe(np.concatenate([rng.standard_normal((2, 4, 8)), x], axis=1), ids, ids, np.ones(2), hidden)
    found = joined.roles_as_dict()
    assert {role: figures["count"] for role, figures in found.items()} == {"patch": 9, "corner": 8, "padding": 3}
    assert joined.own_rows.tolist() == [False] * 4 + [True, False, True] * 2
