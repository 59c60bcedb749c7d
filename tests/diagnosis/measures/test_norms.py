from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dsr_export.diagnosis.measures.bins import LogBins
from dsr_export.diagnosis.measures.norms import NormStats, relative_norms
from dsr_export.registers import RecursiveReplacement


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(0, 3))
def test_a_multiple_above_the_threshold_is_what_replacement_replaces(seed: int, patches: int, registers: int) -> None:
    rng, factor = np.random.default_rng(seed), 1.7
    x = torch.from_numpy(rng.standard_normal((2, registers + patches, 6)).astype(np.float32))
    x *= torch.from_numpy(rng.lognormal(0, 1, x.shape[:2]).astype(np.float32))[..., None]
    rows = slice(registers, registers + patches)
    multiples, others = relative_norms(torch.linalg.vector_norm(x, dim=-1).numpy(), rows)
    assume((abs(multiples - factor) > 1e-5).all())
    site = RecursiveReplacement(rule="median", threshold=factor, choice="mask", exclude=range(registers))
    replaced = (site(x) != x).any(dim=-1).numpy()
    np.testing.assert_array_equal(multiples > factor, replaced[:, rows])
    assert others.shape == (2, registers)


def test_multiples_do_not_depend_on_the_scale_of_an_image() -> None:
    norms = np.random.default_rng(0).random((2, 9)) + 0.1
    scaled = norms * np.array([[3.0], [0.5]])
    np.testing.assert_allclose(relative_norms(norms, slice(1, 9))[0], relative_norms(scaled, slice(1, 9))[0])


def test_broken_and_zero_tokens() -> None:
    multiples, _ = relative_norms(np.array([[np.nan, 1.0, 2.0, np.inf], [0.0, 0.0, 0.0, 5.0]]), slice(0, 4))
    np.testing.assert_array_equal(multiples, [[np.inf, 0.5, 1.0, np.inf], [0.0, 0.0, 0.0, np.inf]])


def test_batches_of_any_size_give_the_same_statistics() -> None:
    values, others = np.random.default_rng(0).lognormal(0, 1, (6, 4)), np.ones((6, 1))

    def stats(size: int) -> NormStats:
        made = NormStats(layers=2, columns=3, patches=4, bins=LogBins())
        for start in range(0, 6, size):
            made.add(1, 2, values[start : start + size], others[start : start + size])
        return made

    one, all_at_once = stats(1), stats(6)
    np.testing.assert_array_equal(one.counts, all_at_once.counts)
    np.testing.assert_array_equal(one.peaks[1, 2], values.max(axis=0).astype(np.float32))
    assert one.largest[1] == values.max()
    assert one.other_peaks.tolist() == [0.0, 1.0]
    assert one.counts[0].sum() == 0


def test_ratios_follow_each_layers_edge() -> None:
    stats = NormStats(layers=2, columns=2, patches=4, bins=LogBins())
    stats.add(0, 1, np.array([[0.9, 1.0, 1.1, 30.0]]), np.zeros((1, 0)))
    edge = stats.bins.edge_at(5.0)
    np.testing.assert_array_equal(stats.ratios([edge, None]), [[0, 0.25], [0, 0]])
    assert stats.ratios([edge, edge])[1].tolist() == [0, 0]  # nothing was seen there
    assert stats.bins.edges[edge] == pytest.approx(5.0, rel=0.02)
