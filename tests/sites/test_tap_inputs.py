"""Which images taps are for: those in which something is replaced, in noise, on the way, and drawn at random."""

from __future__ import annotations

import numpy as np
import pytest

from dsr_export.config import BatchRange
from dsr_export.parity.batch_calls import in_batches
from dsr_export.parity.golden.vectors import Case, Golden, ReferenceTrajectory
from dsr_export.sampling import SamplerSpec
from dsr_export.sites.tap_inputs import candidate_inputs, chosen_rows, taken

SAMPLER = SamplerSpec(num_steps=5)


@pytest.mark.parametrize(
    ("replaced", "count", "rows"),
    [
        ([[0, 0], [0, 0], [0, 0]], 2, [0, 1]),
        ([[0, 0], [0, 2], [3, 0]], 2, [1, 2]),
        ([[0, 1], [0, 5], [1, 1]], 1, [2]),
        ([[0, 2], [0, 5], [1, 0]], 2, [1, 2]),
        ([[0], [4]], 5, [0, 1]),
        ([[], [], []], 2, [0, 1]),
    ],
)
def test_rows_cover_as_many_sites_as_they_can(replaced: list[list[int]], count: int, rows: list[int]) -> None:
    assert chosen_rows(np.array(replaced).reshape(len(replaced), -1), count) == rows


def _golden() -> Golden:
    x = np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1)
    inputs = {"x": x, "t": np.full(8, 0.3, np.float32), "y": np.arange(8)}
    states = np.stack([10 * (step + 1) + x[:4] for step in range(4)])
    return Golden({8: Case(inputs, {})}, ReferenceTrajectory(-x[:4], np.arange(4), states))


def test_candidates_are_drawn_noise_and_midway() -> None:
    drawn, noise, midway = candidate_inputs(_golden(), SAMPLER)
    np.testing.assert_array_equal(drawn["x"].ravel(), range(8))
    np.testing.assert_array_equal(noise["x"].ravel(), [0, -1, -2, -3])
    assert noise["t"].tolist() == [1.0] * 4
    np.testing.assert_array_equal(midway["x"].ravel(), [20, 21, 22, 23])  # the state before the step at that time
    assert midway["t"].tolist() == [0.5] * 4


def test_without_a_sampler_all_are_drawn() -> None:
    assert len(candidate_inputs(_golden(), None)) == 1


def test_taken_rows_are_one_batch() -> None:
    inputs = taken(candidate_inputs(_golden(), SAMPLER), [[5], [0, 3], [1]])
    np.testing.assert_array_equal(inputs["x"].ravel(), [5, 0, -3, 21])


@pytest.mark.parametrize("batch", [BatchRange(1, 1, 1), BatchRange(1, 2, 2), BatchRange(1, 2, 8), BatchRange(4, 4, 4)])
def test_any_number_of_images_runs_in_batches_that_the_model_takes(batch: BatchRange) -> None:
    sizes = []

    def infer(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(inputs["x"]))
        return {"out": 2 * inputs["x"]}

    made = in_batches(infer, {"x": np.arange(3.0)}, batch)
    np.testing.assert_array_equal(made["out"], [0, 2, 4])
    assert all(batch.min <= size <= batch.max for size in sizes)
