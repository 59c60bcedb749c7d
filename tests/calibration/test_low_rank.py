"""The branch of low rank: as good as the largest singular values, in numbers that FP16 holds, for any energy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.low_rank import FEWEST_INPUTS, LEAST_RANK, branch_of


def _weight(seed: int, inputs: int, outputs: int) -> np.ndarray:
    """With a few directions that are much larger than the rest."""
    rng = np.random.default_rng(seed)
    large = rng.standard_normal((inputs, 5)) * np.array([9, 6, 4, 3, 2]) @ rng.standard_normal((5, outputs))
    return np.asarray(large + rng.standard_normal((inputs, outputs)), np.float32)


def _error(weight: np.ndarray, energy: np.ndarray, branch: tuple[np.ndarray, np.ndarray]) -> float:
    rest = weight - branch[0].astype(np.float64) @ branch[1]
    return float(np.sqrt((np.square(rest) * energy[:, None]).sum()))


def _best(weight: np.ndarray, energy: np.ndarray, rank: int) -> float:
    values = np.linalg.svd(weight.astype(np.float64) * np.sqrt(energy)[:, None], compute_uv=False)
    return float(np.sqrt(np.square(values[rank:]).sum()))


@pytest.mark.parametrize(("inputs", "outputs"), [(320, 96), (64, 200), (512, 512)])
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_nearly_what_numpy_leaves_is_left(inputs: int, outputs: int, spread: float) -> None:
    weight, rng = _weight(0, inputs, outputs), np.random.default_rng(1)
    energy = np.exp(spread * rng.standard_normal(inputs)).astype(np.float32)
    branch = branch_of(weight, 20, energy)
    rank = branch[0].shape[1]
    assert rank == min(20, max(LEAST_RANK, inputs // FEWEST_INPUTS))
    assert (branch[0].shape, branch[1].shape) == ((inputs, rank), (rank, outputs))
    best = _best(weight, energy, rank)
    assert best * 0.999 <= _error(weight, energy, branch) <= best * 1.03


def test_a_weight_of_that_rank_is_taken_whole(rng: np.random.Generator) -> None:
    weight = (rng.standard_normal((64, 3)) @ rng.standard_normal((3, 40))).astype(np.float32)
    down, up = branch_of(weight, 16, np.ones(64, np.float32))
    np.testing.assert_allclose(down @ up, weight, atol=2e-2)


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 200), (200, 6), (3, 2)])
def test_there_are_no_more_ranks_than_inputs_or_outputs(inputs: int, outputs: int) -> None:
    down, up = branch_of(_weight(0, inputs, outputs), 32, np.ones(inputs, np.float32))
    rank = min(16, inputs, outputs)
    assert (down.shape, up.shape) == ((inputs, rank), (rank, outputs))


@pytest.mark.parametrize("energy", [0.0, 1.0])
def test_a_weight_of_zeros_leaves_zeros(energy: float) -> None:
    down, up = branch_of(np.zeros((64, 32), np.float32), 16, np.full(64, energy, np.float32))
    assert np.isfinite(down).all() and np.isfinite(up).all()
    assert not (down @ up).any()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 50),
    size=st.sampled_from([1e-6, 1e-3, 1.0, 1e3, 1e5]),
    level=st.sampled_from([0.0, 1e-12, 1e-4, 1.0, 1e6, 1e10]),
    silent=st.sampled_from([0, 1, 63]),
)
def test_fp16_holds_both_and_a_product_that_is_no_larger_than_the_weight(
    seed: int, size: float, level: float, silent: int
) -> None:
    weight = _weight(seed, 64, 48) * np.float32(size)
    energy = np.full(64, level, np.float32)
    energy[:silent] = 0
    down, up = branch_of(weight, 16, energy)
    for each in (down, up):
        assert np.isfinite(each).all()
        np.testing.assert_array_equal(each.astype(np.float16).astype(np.float32), each)
    taken = down.astype(np.float64) @ up
    # Rows are projected: none becomes longer, those of inputs that were never seen neither.
    assert (np.linalg.norm(taken, axis=1) <= np.linalg.norm(weight, axis=1) * 1.01 + 1e-5).all()


def test_inputs_that_are_never_seen_keep_what_codes_can_hold(rng: np.random.Generator) -> None:
    """A block of codes has one scale: what a branch leaves of a silent input must not be larger than its weight."""
    weight, energy = _weight(0, 128, 64), np.exp(rng.standard_normal(128)).astype(np.float32)
    energy[5::16] = 0
    down, up = branch_of(weight, 16, energy)
    rest = weight - down @ up
    assert np.abs(rest[5::16]).max() <= np.abs(weight[5::16]).max() * 1.5


def test_the_same_weight_has_the_same_branch() -> None:
    made = [branch_of(_weight(0, 64, 64), 16, np.ones(64, np.float32)) for _ in range(2)]
    np.testing.assert_array_equal(made[0][0], made[1][0])
    np.testing.assert_array_equal(made[0][1], made[1][1])
