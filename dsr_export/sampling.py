"""Flow-matching Euler sampler with classifier-free guidance, in numpy, around any denoiser callable.

Linear path `x_t = (1 - t) x0 + t eps`: t = 1 is noise. Source: the RAE / DSR samplers (arXiv 2510.11690, 2605.05206).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Denoiser = Callable[[dict[str, Array]], Array]
"""Takes `x [n, C, H, W]`, `t [n]`, `y [n]` and returns `out [n, C, H, W]`, all float32 but the labels (int64)."""

MIN_TIME = 0.05  # the released data-prediction sampler divides by max(t, 0.05)


@dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    """How a model is sampled. `num_steps` grid points make `num_steps - 1` model calls (two batched under guidance)."""

    num_steps: int = 50
    prediction: Literal["data", "velocity"] = "data"
    shift_dim: int = 4096
    shift_base: int = 4096
    guidance: float = 1.0
    null_label: int | None = None

    @property
    def grid(self) -> Array:
        """Times from 1 (noise) down to 0 (data), [num_steps] float32."""
        shift = math.sqrt(self.shift_dim / self.shift_base)
        u = np.linspace(1.0, 0.0, self.num_steps)
        return (shift * u / (1 + (shift - 1) * u)).astype(np.float32)


@dataclass(frozen=True)
class Step:
    """One model call of a trajectory: its inputs, and the state after the Euler step."""

    index: int
    inputs: dict[str, Array]
    state: Array


def trajectory(denoiser: Denoiser, spec: SamplerSpec, noise: Array, labels: Array) -> Iterator[Step]:
    """Walks from `noise [n, C, H, W]` to data for `labels [n]`, yielding every step."""
    x, grid = noise.astype(np.float32), spec.grid
    for i in range(len(grid) - 1):
        inputs = _inputs(spec, x, float(grid[i]), labels)
        prediction = _guided(denoiser(inputs), spec)
        x = (x + (grid[i + 1] - grid[i]) * _velocity(prediction, x, float(grid[i]), spec)).astype(np.float32)
        yield Step(i, inputs, x)


def sample(denoiser: Denoiser, spec: SamplerSpec, noise: Array, labels: Array) -> Array:
    """The final state of `trajectory`, [n, C, H, W] float32."""
    state = noise
    for step in trajectory(denoiser, spec, noise, labels):
        state = step.state
    return state


def seeded_noise(seed: int, count: int, shape: tuple[int, ...]) -> Array:
    """Standard normal noise [count, *shape] float32; image i does not depend on `count`."""
    rows = [np.random.default_rng([seed, i]).standard_normal(shape) for i in range(count)]
    return np.stack(rows).astype(np.float32)


def _inputs(spec: SamplerSpec, x: Array, t: float, labels: Array) -> dict[str, Array]:
    if spec.guidance != 1.0:
        x = np.concatenate([x, x])
        labels = np.concatenate([labels, np.full_like(labels, spec.null_label or 0)])
    return {"x": x, "t": np.full(len(x), t, np.float32), "y": labels.astype(np.int64)}


def _guided(prediction: Array, spec: SamplerSpec) -> Array:
    if spec.guidance == 1.0:
        return prediction
    conditional, null = np.split(prediction, 2)
    return np.asarray(null + np.float32(spec.guidance) * (conditional - null))


def _velocity(prediction: Array, x: Array, t: float, spec: SamplerSpec) -> Array:
    if spec.prediction == "velocity":
        return prediction
    return np.asarray((x - prediction) / np.float32(max(t, MIN_TIME)))
