"""DPM-Solver's steps against diffusers' scheduler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsr_export.errors import ExportError
from dsr_export.samplers import sampler_from_config
from tests.samplers.against_diffusers import RoundedToNearest, assert_same_states, has_schedule, their_states, walks
from tests.samplers.noise_configs import noise_configs

NAME = {"_class_name": "DPMSolverMultistepScheduler"}
SANA = {**NAME, "use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
PICTURE = (2, 3, 3, 3)
SPACINGS = ("none", "none", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    algorithm = draw(st.sampled_from(["dpmsolver++", "dpmsolver++", "dpmsolver", "sde-dpmsolver", "sde-dpmsolver++"]))
    data = algorithm.endswith("++")
    predictions = ["epsilon", "sample", "v_prediction", *(["flow_prediction"] if data else [])]
    config = {
        **NAME,
        **draw(noise_configs()),
        "algorithm_type": algorithm,
        "solver_order": draw(st.sampled_from([1, 2, 3] if algorithm != "sde-dpmsolver" else [1, 2])),
        "solver_type": draw(st.sampled_from(["midpoint", "heun", "bh2"])),
        "prediction_type": draw(st.sampled_from(predictions)),
        "lower_order_final": draw(st.booleans()),
        "euler_at_final": draw(st.booleans()),
        "final_sigmas_type": draw(st.sampled_from(["zero", "sigma_min"])) if data else "sigma_min",
        "use_flow_sigmas": draw(st.booleans()),
        "flow_shift": draw(st.sampled_from([1.0, 3.0, 0.5])),
        "lambda_min_clipped": draw(st.sampled_from([-float("inf"), -5.1])),
    }
    if (spacing := draw(st.sampled_from(SPACINGS))) != "none":
        config[spacing] = True
    return config


def compare(config: dict[str, Any], steps: int, *, bound: float = 1e-6, **options: Any) -> None:
    if not has_schedule(config, steps):
        assert not np.isfinite(their_states(config, steps, shape=PICTURE)).all()
        return
    (times, ours), (their_times, theirs) = walks(config, steps, shape=PICTURE, **options)
    assert times.dtype == np.int64
    np.testing.assert_array_equal(times, their_times)
    assert_same_states(ours, theirs, bound)


def compare_all(config: dict[str, Any], steps: int) -> None:
    with RoundedToNearest():
        compare(config, steps, bound=1e-9)


@given(config=configs(), steps=st.integers(1, 18))
@settings(max_examples=40, deadline=None)
def test_states_equal_diffusers(config: dict[str, Any], steps: int) -> None:
    compare_all(config, steps)


@pytest.mark.slow
@given(config=configs(), steps=st.integers(1, 60))
@settings(max_examples=800, deadline=None)
def test_states_equal_diffusers_widely(config: dict[str, Any], steps: int) -> None:
    compare_all(config, steps)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_released_settings(order: int) -> None:
    compare({**SANA, "solver_order": order}, 20)
    compare({**NAME, "solver_order": order}, 20)  # PixArt's are the defaults
    compare({**NAME, "solver_order": order, "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}, 14)


def test_a_learned_variance_is_left_out() -> None:
    for algorithm in ("dpmsolver++", "dpmsolver"):
        config = {**NAME, "algorithm_type": algorithm, "final_sigmas_type": "sigma_min"}
        compare({**config, "variance_type": "learned_range"}, 6, channels=6)
        compare({**config, "variance_type": "fixed_small", "time_shift_type": "linear"}, 6)


def test_a_shift_by_the_size_of_the_picture() -> None:
    config = {**SANA, "use_dynamic_shifting": True}
    (times, ours), (their_times, theirs) = walks(config, 6, shape=PICTURE, start={"mu": 0.7})
    np.testing.assert_array_equal(times, their_times)
    assert_same_states(ours, theirs)
    sized = {**config, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
    by_tokens = sampler_from_config(sized).start(6, image_tokens=1024)
    by_mu = sampler_from_config(sized).start(6, mu=0.5 + 0.65 * (1024 - 256) / (4096 - 256))
    np.testing.assert_array_equal(by_tokens.timesteps, by_mu.timesteps)
    assert list(by_tokens.timesteps) != list(sampler_from_config(sized).start(6).timesteps)
    with pytest.raises(ExportError, match="nothing says how"):
        sampler_from_config(config).start(6, image_tokens=1024)
    with pytest.raises(ExportError, match="no time_shift_type linear"):
        sampler_from_config({**config, "time_shift_type": "linear"}).start(6, mu=0.7)
    with pytest.raises(ExportError, match="use_dynamic_shifting"):
        sampler_from_config(SANA).start(6, mu=0.7)


def test_float32_states_equal_diffusers() -> None:
    for config in (SANA, {**NAME, "solver_order": 3}, {**NAME, "algorithm_type": "sde-dpmsolver++"}):
        (_, ours), (_, theirs) = walks(config, 12, shape=PICTURE, dtype=np.float32)
        assert ours[-1].dtype == theirs[-1].dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"solver_order": 4}, "solver_order is 4"),
        ({"algorithm_type": "sde-dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"}, "no solver_order 3"),
        ({"algorithm_type": "dpmsolver"}, "needs final_sigmas_type sigma_min"),
        (
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "prediction_type": "flow_prediction"},
            "takes no flow_prediction",
        ),
        ({"use_karras_sigmas": True, "use_beta_sigmas": True}, "only one of"),
        ({"flow_shift": 0.0}, "flow_shift"),
        ({"time_shift_type": "cubic"}, "time_shift_type"),
        ({"variance_type": "fixed"}, "variance_type"),
    ],
)
def test_settings_without_a_solver_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        sampler_from_config({**NAME, **changed})
