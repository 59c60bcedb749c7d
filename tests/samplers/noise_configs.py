"""Hypothesis strategies of what DDIM and DPM-Solver share: noise schedules and thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st


class Betas(list[float]):
    """A failure prints them short."""

    def __repr__(self) -> str:
        return f"Betas(np.geomspace(0.001, 0.02, {len(self)}))"


_TRAINED = {count: Betas(np.geomspace(0.001, 0.02, count).tolist()) for count in (200, 1000)}


@st.composite
def noise_configs(draw: st.DrawFn) -> dict[str, Any]:
    """Settings of the noise schedule, and of thresholding."""
    count = draw(st.sampled_from([1000, 1000, 1000, 200]))
    first, last = draw(st.sampled_from([(1e-4, 0.02), (0.00085, 0.012), (0.001, 0.02)]))
    config: dict[str, Any] = {
        "num_train_timesteps": count,
        "beta_start": first,
        "beta_end": last,
        "beta_schedule": draw(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"])),
        "trained_betas": _TRAINED[count] if draw(st.integers(0, 4)) == 0 else None,
        "rescale_betas_zero_snr": draw(st.booleans()),
        "timestep_spacing": draw(st.sampled_from(["linspace", "leading", "trailing"])),
        "steps_offset": draw(st.sampled_from([0, 1])),
    }
    if draw(st.integers(0, 3)) == 0:
        config |= {
            "thresholding": True,
            "dynamic_thresholding_ratio": draw(st.sampled_from([0.995, 0.9, 0.51, 1.0])),
            "sample_max_value": draw(st.sampled_from([1.0, 1.5, 100.0])),
        }
    return config
