"""The Euler sampler against closed forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dsr_export.sampling import SamplerSpec, sample, seeded_noise, trajectory

SPEC = SamplerSpec(num_steps=50)


def test_the_grid_runs_from_noise_to_data_with_the_released_shift() -> None:
    shifted = dataclasses.replace(SPEC, shift_dim=16 * 16 * 768)
    assert SPEC.grid[[0, -1]].tolist() == [1.0, 0.0]
    assert SPEC.grid[1] == pytest.approx(48 / 49)
    u, s = 48 / 49, np.sqrt(48)
    assert shifted.grid[1] == pytest.approx(s * u / (1 + (s - 1) * u), rel=1e-6)
    assert len(shifted.grid) == 50


def test_a_perfect_data_prediction_lands_on_the_data() -> None:
    """With a constant prediction, Euler is exact until the time clamp of 0.05, which leaves its share of noise."""
    target = np.full((2, 1, 2, 2), 0.5, np.float32)
    noise = seeded_noise(0, 2, (1, 2, 2))
    found = sample(lambda inputs: target[: len(inputs["x"])], SPEC, noise, np.zeros(2, np.int64))
    np.testing.assert_allclose(found, target, atol=0.05)


def test_velocity_prediction_integrates_exactly() -> None:
    noise = seeded_noise(0, 1, (1, 2, 2))
    spec = dataclasses.replace(SPEC, prediction="velocity")
    found = sample(lambda inputs: np.ones_like(inputs["x"]), spec, noise, np.zeros(1, np.int64))
    np.testing.assert_allclose(found, noise - 1, atol=1e-5)


def test_guidance_batches_both_labels_and_extrapolates() -> None:
    spec = dataclasses.replace(SPEC, num_steps=2, guidance=3.0, null_label=10)
    seen = []

    def denoiser(inputs: dict[str, np.ndarray]) -> np.ndarray:
        seen.append(inputs)
        return (inputs["y"] != 10).astype(np.float32)[:, None, None, None] * np.ones_like(inputs["x"])

    found = sample(denoiser, spec, np.zeros((2, 1, 1, 1), np.float32), np.array([4, 5]))
    assert seen[0]["y"].tolist() == [4, 5, 10, 10]
    assert seen[0]["t"].dtype == np.float32
    np.testing.assert_allclose(found, 3.0)  # 0 + 3 * (1 - 0), one step from 1 to 0


def test_a_trajectory_makes_one_call_less_than_grid_points() -> None:
    steps = list(trajectory(lambda i: i["x"], SPEC, np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.int64)))
    assert len(steps) == 49
    assert steps[-1].inputs["t"][0] == SPEC.grid[-2]


def test_noise_of_an_image_does_not_depend_on_the_count() -> None:
    np.testing.assert_array_equal(seeded_noise(3, 5, (2, 2))[:2], seeded_noise(3, 2, (2, 2)))
    assert not np.array_equal(*seeded_noise(3, 2, (2, 2)))
