"""Samples: the same from the same shape, smaller ones the start of larger ones, and norms of every token."""

from __future__ import annotations

import numpy as np
import pytest

from graphs.observe.tap_samples import EDGE, MOST_TOKENS, Layout, Sample


@pytest.mark.parametrize(
    ("shape", "tokens", "channels"),
    [((2, 12), 1, 12), ((2, 7, 12), 7, 12), ((2, 4, 68, 32), 68, 128), ((2, 68, 4, 32), 68, 128)],
)
def test_tokens_come_first(shape: tuple[int, ...], tokens: int, channels: int) -> None:
    layout = Layout.of(shape)
    assert (layout.tokens, layout.channels) == (tokens, channels)


def test_both_orders_of_heads_give_one_sample(rng: np.random.Generator) -> None:
    heads = rng.standard_normal((2, 4, 68, 32)).astype(np.float32)
    by_head, by_token = Sample.of(heads, 1024), Sample.of(heads.transpose(0, 2, 1, 3), 1024)
    np.testing.assert_array_equal(by_head.values, by_token.values)
    np.testing.assert_array_equal(by_head.norms, by_token.norms)


def test_a_smaller_sample_is_the_start_of_a_larger(rng: np.random.Generator) -> None:
    array = rng.standard_normal((2, 68, 128)).astype(np.float32)
    small, large = Sample.of(array, 1024), Sample.of(array, 8192)
    count = small.values.shape[-1]
    assert count < large.values.shape[-1]
    np.testing.assert_array_equal(large.first_channels(count).values, small.values)


def test_norms_are_of_all_channels(rng: np.random.Generator) -> None:
    array = rng.standard_normal((2, 68, 128)).astype(np.float32)
    array[1, 5] *= 50
    sample = Sample.of(array, 1024)
    np.testing.assert_allclose(sample.norms, np.linalg.norm(array, axis=-1), rtol=1e-6)


def test_long_sequences_keep_both_ends() -> None:
    rows = Layout.of((1, 5000, 8)).token_rows()
    assert len(rows) == MOST_TOKENS
    assert set(range(EDGE)) <= set(rows) and set(range(5000 - EDGE, 5000)) <= set(rows)
    assert (np.diff(rows) > 0).all()
