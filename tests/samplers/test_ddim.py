"""DDIM's steps against diffusers' scheduler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dsr_export.errors import ExportError
from dsr_export.samplers import sampler_from_config
from tests.samplers.against_diffusers import RoundedToNearest, assert_same_states, walks
from tests.samplers.noise_configs import noise_configs

NAME = {"_class_name": "DDIMScheduler"}
DIT = {**NAME, "clip_sample": False, "beta_schedule": "linear", "steps_offset": 0, "trained_betas": None}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    config = {
        **NAME,
        **draw(noise_configs()),
        "clip_sample": draw(st.booleans()),
        "clip_sample_range": draw(st.sampled_from([1.0, 2, 0.3])),
        "set_alpha_to_one": draw(st.booleans()),
        "prediction_type": draw(st.sampled_from(["epsilon", "sample", "v_prediction"])),
    }
    noise_alone = config["rescale_betas_zero_snr"] and config["timestep_spacing"] != "leading"
    assume(not (noise_alone and config["prediction_type"] == "epsilon"))
    return config


def compare(config: dict[str, Any], steps: int, eta: float = 0.0, bound: float = 1e-6) -> None:
    (times, ours), (their_times, theirs) = walks(config, steps, eta=eta)
    assert times.dtype == np.int64
    np.testing.assert_array_equal(times, their_times)
    assert_same_states(ours, theirs, bound)


etas = st.sampled_from([0.0, 0.0, 0.4, 0.8])


def compare_all(config: dict[str, Any], steps: int, eta: float) -> None:
    with RoundedToNearest():
        compare(config, steps, eta, bound=1e-9)


@given(config=configs(), steps=st.integers(1, 16), eta=etas)
@settings(max_examples=25, deadline=None)
def test_states_equal_diffusers(config: dict[str, Any], steps: int, eta: float) -> None:
    compare_all(config, steps, eta)


@pytest.mark.slow
@given(config=configs(), steps=st.integers(1, 150), eta=etas)
@settings(max_examples=500, deadline=None)
def test_states_equal_diffusers_widely(config: dict[str, Any], steps: int, eta: float) -> None:
    compare_all(config, steps, eta)


def test_released_settings() -> None:
    compare(DIT, 25)
    compare({**DIT, "beta_schedule": "scaled_linear", "steps_offset": 1, "set_alpha_to_one": False}, 10)


def test_ddpm_noise() -> None:
    compare(DIT, 10, eta=1.0)
    config = {**DIT, **ZERO_SNR, "prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}
    (_, ours), _ = walks(config, 3, eta=1.0)
    assert np.isfinite(ours).all()  # diffusers takes the root of -6e-8 there


def test_a_spacing_with_one_step_more_is_walked_as_diffusers_does() -> None:
    config = {**DIT, "timestep_spacing": "trailing"}
    assert len(sampler_from_config(config).start(61).timesteps) == 62
    compare(config, 61)


def test_noise_alone_can_not_start_from_a_prediction_of_noise() -> None:
    with pytest.raises(ExportError, match="step 999 is noise alone"):
        sampler_from_config({**DIT, **ZERO_SNR}).start(10)
    compare({**DIT, **ZERO_SNR, "prediction_type": "v_prediction"}, 10)


def test_steps_that_begin_beyond_the_training_steps_are_refused() -> None:
    sampler = sampler_from_config({**DIT, "steps_offset": 1})
    with pytest.raises(ExportError, match="begin at step 1000 of 1000"):
        sampler.start(1000)
    with pytest.raises(ExportError, match="1001 steps"):
        sampler.start(1001)
