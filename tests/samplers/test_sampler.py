"""What all samplers share: what a step and a start refuse, and what they import."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from dsr_export.errors import ExportError
from dsr_export.samplers import SCHEDULERS, sampler_from_config

EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
SOLVER = {"_class_name": "DPMSolverMultistepScheduler"}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_walk_takes_whole_predictions_and_keeps_the_dtype(name: str) -> None:
    sampler = sampler_from_config({"_class_name": name})
    for dtype in (np.float32, np.float64):
        walk, x = sampler.start(3), np.ones((1, 4, 2, 2), dtype)
        assert walk.initial_scale == 1.0 and not walk.needs_noise
        assert walk.scaled(x, 0) is x
        assert walk.step(x / 2, 0, x).dtype == dtype
        walk = sampler.start(3)
        with pytest.raises(ExportError, match=r"a prediction of \[1, 8, 2, 2\] for a state of \[1, 4, 2, 2\]"):
            walk.step(np.ones((1, 8, 2, 2), dtype), 0, x)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_walks_do_not_share_what_they_keep(name: str) -> None:
    sampler, x = sampler_from_config({"_class_name": name}), np.full((1, 3, 2, 2), 0.3)
    first, second = sampler.start(4), sampler.start(4)
    for i in range(3):
        one, other = first.step(x * i, i, x), second.step(x * i, i, x)
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(sampler.start(4).step(x, 0, x), sampler.start(4).step(x, 0, x))


def test_a_solver_takes_its_steps_in_order() -> None:
    walk, x = sampler_from_config(SOLVER).start(4), np.ones((1, 3, 2, 2))
    walk.step(x, 0, x)
    with pytest.raises(ValueError, match="step 2 after 1 steps"):
        walk.step(x, 2, x)


@pytest.mark.parametrize(
    ("config", "given"),
    [
        ({**EULER, "stochastic_sampling": True}, {}),
        ({"_class_name": "DDIMScheduler"}, {"eta": 0.5}),
        ({**SOLVER, "algorithm_type": "sde-dpmsolver++"}, {}),
    ],
)
def test_noise_must_be_given_where_it_is_added(config: dict[str, Any], given: dict[str, Any]) -> None:
    walk, x = sampler_from_config(config).start(3, **given), np.ones((1, 3, 2, 2))
    assert walk.needs_noise
    with pytest.raises(ExportError, match="none is given"):
        walk.step(x, 0, x)
    with pytest.raises(ExportError, match="noise of"):
        walk.step(x, 0, x, x[:, :1])
    assert np.isfinite(walk.step(x, 0, x, x)).all()


@pytest.mark.parametrize(
    ("config", "given", "said"),
    [
        (EULER, {"steps": 0}, "0 steps"),
        (SOLVER, {"steps": 10**9}, "1000000000 steps"),
        (EULER, {"steps": 3, "eta": 0.5}, "takes no eta"),
        (SOLVER, {"steps": 3, "sigmas": [1.0, 0.6, 0.3]}, "takes no sigmas"),
        ({"_class_name": "DDIMScheduler"}, {"steps": 3, "sigmas": [1.0, 0.6, 0.3]}, "takes no sigmas"),
        ({"_class_name": "DDIMScheduler"}, {"steps": 3, "eta": 1.5}, "eta is 1.5"),
        (EULER, {"steps": 3, "sigmas": [1.0, 0.5]}, "2 sigmas for 3 steps"),
        (EULER, {"steps": 2, "sigmas": [1.0, float("nan")]}, "sigmas"),
        ({**EULER, "use_dynamic_shifting": True}, {"steps": 3}, "nothing says how"),
        (
            {**EULER, "use_dynamic_shifting": True, "base_image_seq_len": None},
            {"steps": 3, "image_tokens": 64},
            "nothing says how",
        ),
        ({**EULER, "use_dynamic_shifting": True}, {"steps": 3, "mu": float("nan")}, "mu of nan"),
        ({**EULER, "use_dynamic_shifting": True}, {"steps": 3, "mu": 1e9}, "mu of"),
        (
            {**EULER, "use_dynamic_shifting": True, "base_image_seq_len": 4096},
            {"steps": 3, "image_tokens": 64},
            "are the same",
        ),
        ({**EULER, "shift_terminal": 0.1}, {"steps": 1}, "no finite schedule of 1 steps"),
        ({**EULER, "use_exponential_sigmas": True, "sigma_min": 0.0}, {"steps": 3}, "must be above 0"),
        ({**EULER, "use_karras_sigmas": True, "sigma_min": -0.1}, {"steps": 3}, "neither may be below 0"),
        ({**SOLVER, "rescale_betas_zero_snr": True, "trained_betas": [0.0] * 1000}, {"steps": 3}, "no finite schedule"),
    ],
)
def test_what_starts_no_walk_is_refused(config: dict[str, Any], given: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        sampler_from_config(config).start(**given)


def test_a_shift_by_the_size_of_the_picture() -> None:
    sampler = sampler_from_config({**EULER, "use_dynamic_shifting": True})
    mu = 0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256)
    by_tokens, by_mu = sampler.start(5, image_tokens=1024), sampler.start(5, mu=mu)
    np.testing.assert_allclose(by_tokens.timesteps, by_mu.timesteps, rtol=1e-6)
    assert by_tokens.timesteps[1] < sampler.start(5, image_tokens=4096).timesteps[1]
    assert sampler_from_config(EULER).start(5, mu=2.0).timesteps[-1] == 1.0  # as diffusers: Flux gives it to any


def test_samplers_need_numpy_alone() -> None:
    code = "import sys, dsr_export.samplers; print(*{'torch', 'diffusers', 'scipy', 'onnx'} & {*sys.modules})"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == ""
