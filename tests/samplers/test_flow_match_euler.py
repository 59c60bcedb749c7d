"""Flow matching's Euler steps against diffusers' scheduler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.samplers.against_diffusers import RoundedToNearest, assert_same_states, walks

NAME = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
SD3 = {**NAME, "num_train_timesteps": 1000, "shift": 3.0}
FLUX = {**NAME, "shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
LTX = {**FLUX, "shift_terminal": 0.1, "max_shift": 2.05, "base_image_seq_len": 1024}
SPREADS = ("none", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    config = {
        **NAME,
        "num_train_timesteps": draw(st.sampled_from([1000, 1000, 100, 37])),
        "shift": draw(st.sampled_from([1.0, 3.0, 3, 0.7])),
        "use_dynamic_shifting": draw(st.booleans()),
        "time_shift_type": draw(st.sampled_from(["exponential", "linear"])),
        "shift_terminal": draw(st.sampled_from([None, 0.02, 0.1])),
        "stochastic_sampling": draw(st.booleans()),
        "invert_sigmas": draw(st.booleans()),
    }
    if (spread := draw(st.sampled_from(SPREADS))) in SPREADS[1:]:
        config[spread] = True
    if draw(st.booleans()):
        config |= {"sigma_min": 0.01, "sigma_max": draw(st.sampled_from([None, 1.0]))}
    return config


def compare(config: dict[str, Any], steps: int, start: dict[str, Any], bound: float = 1e-6) -> None:
    (times, ours), (their_times, theirs) = walks(config, steps, start=start)
    assert times.dtype == np.float32
    np.testing.assert_allclose(times, their_times, rtol=1e-6, atol=1e-6)
    assert_same_states(ours, theirs, bound)


def drawn(config: dict[str, Any], steps: int, data: st.DataObject) -> None:
    sigmas = np.linspace(1, 1 / steps, steps).tolist() if data.draw(st.booleans()) else None
    start: dict[str, Any] = {"sigmas": sigmas, "mu": 0.8} if config["use_dynamic_shifting"] else {"sigmas": sigmas}
    with RoundedToNearest():
        compare(config, steps, start, bound=1e-9)


@given(config=configs(), steps=st.integers(2, 12), data=st.data())
@settings(max_examples=25, deadline=None)
def test_states_equal_diffusers(config: dict[str, Any], steps: int, data: st.DataObject) -> None:
    drawn(config, steps, data)


@pytest.mark.slow
@given(config=configs(), steps=st.integers(2, 60), data=st.data())
@settings(max_examples=500, deadline=None)
def test_states_equal_diffusers_widely(config: dict[str, Any], steps: int, data: st.DataObject) -> None:
    drawn(config, steps, data)


def test_released_settings() -> None:
    compare(SD3, 28, {})
    compare(FLUX, 20, {"mu": 0.9, "sigmas": np.linspace(1.0, 1 / 20, 20)})
    compare(LTX, 20, {"mu": 0.9})
