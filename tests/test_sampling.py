"""The samplers against closed forms."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from dsr_export.errors import ExportError, RunnerError
from dsr_export.sampling import SamplerSpec, fused_trajectory, sample, seeded_noise, step_table, trajectory

SPEC = SamplerSpec(num_steps=50)
DDPM = SamplerSpec(num_steps=51, prediction="epsilon", path="ddpm")
POWERS = {0: 9.999e-01, 250: 5.21423031e-01, 500: 7.77966584e-02, 749: 3.35055044e-03, 999: 4.03582977e-05}
"""alpha-bar by step, as the released linear schedule gives it."""


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


class TestReversed:
    """t = 0 is noise, t = 1 data: the same walk with its clock turned round."""

    @pytest.mark.parametrize("prediction", ["data", "velocity"])
    def test_it_gives_what_the_linear_path_gives(self, prediction: str) -> None:
        sign = -1.0 if prediction == "velocity" else 1.0
        linear = SamplerSpec(num_steps=12, prediction=prediction, shift_dim=9 * 4096)  # type: ignore[arg-type]
        turned = dataclasses.replace(linear, path="reversed")
        noise, labels = seeded_noise(0, 2, (1, 2, 2)), np.zeros(2, np.int64)
        expected = sample(lambda i: np.tanh(i["x"]) * i["t"][:, None, None, None], linear, noise, labels)
        found = sample(lambda i: sign * np.tanh(i["x"]) * (1 - i["t"])[:, None, None, None], turned, noise, labels)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(turned.grid, 1 - linear.grid, atol=1e-6)

    def test_noise_has_the_declared_scale(self) -> None:
        spec = SamplerSpec(num_steps=2, prediction="velocity", path="reversed", noise_scale=2.0)
        noise = seeded_noise(0, 1, (1, 2, 2))
        np.testing.assert_allclose(
            sample(lambda i: np.ones_like(i["x"]), spec, noise, np.zeros(1, np.int64)), 2 * noise + 1, atol=1e-6
        )


class TestDdpm:
    @pytest.mark.parametrize(
        ("calls", "steps"), [(1, [999]), (2, [999, 0]), (5, [999, 749, 500, 250, 0]), (21, [*range(999, 498, -50)])]
    )
    def test_steps_are_spaced_as_released(self, calls: int, steps: list[int]) -> None:
        """With 21 calls, a sum of strides ends just below 499.5, and the product would be rounded to 500."""
        grid = dataclasses.replace(DDPM, num_steps=calls + 1).grid
        assert len(grid) == calls + 1 and grid[-1] == -1
        assert grid[: len(steps)].tolist() == steps

    def test_a_step_mixes_data_and_noise_by_the_schedule(self) -> None:
        spec, x = dataclasses.replace(DDPM, num_steps=6), np.full((1, 1, 1, 1), 1.5, np.float32)
        steps = [*POWERS]
        for step in trajectory(lambda i: np.full_like(i["x"], 0.25), spec, x, np.zeros(1, np.int64)):
            kept = POWERS[steps[-1 - step.index]]
            after = POWERS[steps[-2 - step.index]] if step.index < 4 else 1.0
            data = (step.inputs["x"] - np.sqrt(1 - kept) * 0.25) / np.sqrt(kept)
            np.testing.assert_allclose(step.state, np.sqrt(after) * data + np.sqrt(1 - after) * 0.25, rtol=1e-5)

    def test_a_perfect_noise_prediction_lands_on_the_data(self) -> None:
        target, powers = np.float32(0.5), np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

        def denoiser(inputs: dict[str, np.ndarray]) -> np.ndarray:
            kept = powers[inputs["t"].astype(int)][:, None, None, None]
            noise = (inputs["x"] - np.sqrt(kept) * target) / np.sqrt(1 - kept)
            return np.concatenate([noise, np.full_like(noise, np.nan)], axis=1)  # and a variance nobody asks for

        found = sample(denoiser, DDPM, seeded_noise(0, 2, (1, 2, 2)), np.zeros(2, np.int64))
        assert found.shape == (2, 1, 2, 2)
        np.testing.assert_allclose(found, target, atol=1e-3)

    @pytest.mark.parametrize(("prediction", "path"), [("epsilon", "linear"), ("data", "ddpm"), ("velocity", "ddpm")])
    def test_pairs_without_a_sampler_are_refused(self, prediction: str, path: str) -> None:
        with pytest.raises(ExportError, match=f"'{prediction}' on path '{path}'"):
            SamplerSpec(prediction=prediction, path=path)  # type: ignore[arg-type]


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize(
    ("prediction", "path"),
    [("data", "linear"), ("velocity", "linear"), ("data", "reversed"), ("velocity", "reversed"), ("epsilon", "ddpm")],
)
def test_a_fused_step_walks_the_same_way(prediction: Any, path: Any, guidance: float) -> None:
    spec = SamplerSpec(num_steps=9, prediction=prediction, path=path, guidance=guidance, null_label=10, noise_scale=2.0)
    noise, labels = seeded_noise(0, 3, (2, 2, 2)), np.array([1, 7, 3])

    def denoiser(inputs: dict[str, np.ndarray]) -> np.ndarray:
        moved = inputs["x"] + (inputs["t"] + inputs["y"])[:, None, None, None].astype(np.float32)
        return np.asarray(np.tanh(moved))

    def step(fed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        time, keep, take, factor = fed["schedule"][fed["step"][0]]
        twice = 1 if guidance == 1.0 else 2
        null = [fed["y"], np.full_like(fed["y"], 10)][:twice]
        rows = {"x": np.concatenate([fed["x"]] * twice), "y": np.concatenate(null)}
        made = np.split(denoiser({**rows, "t": np.full(len(rows["x"]), time)}), twice)
        guided = made[0] if twice == 1 else made[1] + factor * (made[0] - made[1])
        return {"next_x": keep * fed["x"] + take * guided, "next_step": fed["step"] + 1}

    plain = [each.state for each in trajectory(denoiser, spec, noise, labels)]
    fused = [each.state for each in fused_trajectory(step, spec, noise, labels)]
    np.testing.assert_array_equal(np.stack(fused), np.stack(plain))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({"next_x": None}, "no 'next_x' for 'x' float32"),
        ({"next_step": None}, "no 'next_step'"),
        (
            {"next_x": np.zeros((2, 1, 4, 4), np.float32)},
            r"'next_x' float32 \[2, 1, 4, 4\] for 'x' float32 \[2, 2, 4, 4\]",
        ),
        ({"next_x": np.zeros(64, np.float32)}, r"'next_x' float32 \[64\]"),
        ({"next_x": np.zeros((2, 2, 4, 4))}, "'next_x' float64"),
        ({"next_step": np.zeros(1, np.float32)}, "'next_step' float32"),
        ({"next_step": np.array(1)}, r"'next_step' int64 \[\]"),
    ],
)
def test_what_makes_no_next_step_is_refused(made: dict[str, Any], told: str) -> None:
    def step(fed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = {"next_x": fed["x"], "next_step": fed["step"] + 1} | made
        return {name: value for name, value in outputs.items() if value is not None}

    spec, noise = SamplerSpec(num_steps=3), seeded_noise(0, 2, (2, 4, 4))
    with pytest.raises(RunnerError, match=told):
        list(fused_trajectory(step, spec, noise, np.array([0, 1])))


def test_the_table_of_an_euler_step_is_the_released_formula() -> None:
    """`x + (after - t) (x - prediction) / max(t, 0.05)`, and on the reversed path with `1 - t` below the difference."""
    x, prediction = 1.25, -0.5
    for path in ("linear", "reversed"):
        spec = dataclasses.replace(SPEC, path=path, num_steps=30)
        for (t, keep, take, _), after in zip(step_table(spec).astype(float), spec.grid[1:].astype(float), strict=True):
            ahead = path == "reversed"
            velocity = (prediction - x if ahead else x - prediction) / max(1 - t if ahead else t, 0.05)
            assert keep * x + take * prediction == pytest.approx(x + (after - t) * velocity, abs=1e-6)
