"""The training steps at which a walk calls its denoiser, from the noisiest; table 2 of 2305.08891.

DDIM spaces `steps` of them, with both ends; DPM-Solver spaces one more, and leaves out the cleanest.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from dsr_export.samplers.sampler import Array

Spacing = Literal["linspace", "leading", "trailing"]


def ddim_timesteps(steps: int, spacing: Spacing, *, trained: int, offset: int) -> Array:
    """[steps] int64, of `trained` training steps."""
    if spacing == "linspace":
        return _whole(np.linspace(0, trained - 1, steps)[::-1])
    if spacing == "leading":
        return _leading(steps, trained // steps) + offset
    return _trailing(trained, trained / steps)


def solver_timesteps(steps: int, spacing: Spacing, *, trained: int, last: int, offset: int) -> Array:
    """[steps] int64, of the first `last` of `trained` training steps."""
    if spacing == "linspace":
        return _whole(np.linspace(0, last - 1, steps + 1)[:0:-1])
    if spacing == "leading":
        return _leading(steps + 1, last // (steps + 1))[:-1] + offset
    return _trailing(last, trained / steps)


def timesteps_of_levels(logs: Array, trained: Array) -> Array:
    """Where the logarithms `logs [n]` of sigmas lie between those of the training steps, `trained`.

    After the last training step that is not noisier: where the last step was given some signal, it is not the noisiest.
    """
    reached = (np.flatnonzero(trained <= level) for level in logs)
    below = np.array([places[-1] if len(places) else 0 for places in reached]).clip(max=len(trained) - 2)
    low, high = trained[below], trained[below + 1]
    weight = np.clip((low - logs) / (low - high), 0, 1)
    return np.asarray((1 - weight) * below + weight * (below + 1))


def _leading(steps: int, stride: int) -> Array:
    return np.arange(steps, dtype=np.int64)[::-1] * stride


def _trailing(last: int, stride: float) -> Array:
    """The sum of strides decides how many there are, one more than asked for at times; diffusers walks it too."""
    return _whole(np.arange(last, 0, -stride)) - 1


def _whole(places: Array) -> Array:
    return places.round().astype(np.int64)
