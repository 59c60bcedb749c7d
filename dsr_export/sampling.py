"""Deterministic samplers with classifier-free guidance, in numpy, around any denoiser callable.

Three paths from noise to data. Sources: the RAE / DSR samplers (arXiv 2510.11690, 2605.05206) for `linear`, SiT
(2401.08740) and JiT (2511.13720) for `reversed`, DiT (2212.09748) and DDIM (2010.02502, eta 0) for `ddpm`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError, RunnerError
from dsr_export.limits import MOST_STEPS

Array = npt.NDArray[Any]
Denoiser = Callable[[dict[str, Array]], Array]
"""Takes `x [n, C, H, W]`, `t [n]`, `y [n]` and returns `out [n, C or more, H, W]`, all float32 but the labels (int64).

Channels beyond the first C (a learned variance) do not enter these samplers."""

MIN_TIME = 0.05  # the released data-prediction sampler divides by max(t, 0.05)
DIFFUSION_STEPS = 1000  # of the released DDPM schedule, whose betas grow linearly between these two
FIRST_BETA, LAST_BETA = 1e-4, 0.02


@dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    """How a model is sampled. `num_steps` grid points make `num_steps - 1` model calls (two batched under guidance).

    `path` says what the model's time means: `linear`, `x_t = (1 - t) x0 + t eps` (t = 1 is noise); `reversed`,
    `x_t = t x0 + (1 - t) eps` (t = 0 is noise); `ddpm`, the step 999 (noise) to 0 of a diffusion whose noise the
    model predicts. `noise_scale` is the standard deviation of eps on the first two.
    """

    num_steps: int = 50
    prediction: Literal["data", "velocity", "epsilon"] = "data"
    shift_dim: int = 4096
    shift_base: int = 4096
    guidance: float = 1.0
    null_label: int | None = None
    path: Literal["linear", "reversed", "ddpm"] = "linear"
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.num_steps <= MOST_STEPS:
            raise ExportError(f"a sampler of {self.num_steps} grid points", hint=f"give 2 to {MOST_STEPS}")
        if (self.prediction == "epsilon") != (self.path == "ddpm"):
            raise ExportError(
                f"no sampler for prediction '{self.prediction}' on path '{self.path}'",
                hint="'epsilon' goes with 'ddpm', 'data' and 'velocity' go with 'linear' and 'reversed'",
            )

    @property
    def grid(self) -> Array:
        """Times from noise to data, [num_steps] float32; the model is called at all but the last.

        From 1 to 0, or `reversed` from 0 to 1; for `ddpm` whole steps from 999 to 0, then -1 for clean data.
        """
        if self.path == "ddpm":
            return np.append(_spaced_steps(self.num_steps - 1)[::-1], -1).astype(np.float32)
        shift = math.sqrt(self.shift_dim / self.shift_base)
        u = np.linspace(1.0, 0.0, self.num_steps)
        t = shift * u / (1 + (shift - 1) * u)
        return (1 - t if self.path == "reversed" else t).astype(np.float32)


@dataclass(frozen=True)
class Step:
    """One model call of a trajectory: its inputs, and the state after the step."""

    index: int
    inputs: dict[str, Array]
    state: Array


def trajectory(denoiser: Denoiser, spec: SamplerSpec, noise: Array, labels: Array) -> Iterator[Step]:
    """Walks from standard normal `noise [n, C, H, W]` to data for `labels [n]`, yielding every step."""
    x, grid = (noise * spec.noise_scale).astype(np.float32), spec.grid
    for i in range(len(grid) - 1):
        inputs = _inputs(spec, x, float(grid[i]), labels)
        prediction = _guided(_prediction(denoiser, inputs), spec)
        x = _advanced(x, prediction, grid[i], grid[i + 1], spec).astype(np.float32)
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


def _prediction(denoiser: Denoiser, inputs: dict[str, Array]) -> Array:
    """Its first channels, as many as the state has. RunnerError where they do not fit the state."""
    made, x = denoiser(inputs), inputs["x"]
    fits = made.ndim == x.ndim and made.shape[1] >= x.shape[1]
    if not fits or (len(made), *made.shape[2:]) != (len(x), *x.shape[2:]):
        raise RunnerError(
            f"the model gives {list(made.shape)} for a state of {list(x.shape)}", hint="build the bundle again"
        )
    return made[:, : x.shape[1]]


def _guided(prediction: Array, spec: SamplerSpec) -> Array:
    if spec.guidance == 1.0:
        return prediction
    conditional, null = np.split(prediction, 2)
    return np.asarray(null + np.float32(spec.guidance) * (conditional - null))


def _advanced(x: Array, prediction: Array, t: Array, after: Array, spec: SamplerSpec) -> Array:
    """The state at time `after`, from the one at `t`: an Euler step, or DDIM's."""
    if spec.path == "ddpm":
        return _ddim(x, prediction, int(t), int(after))
    return np.asarray(x + (after - t) * _velocity(prediction, x, float(t), spec))


def _velocity(prediction: Array, x: Array, t: float, spec: SamplerSpec) -> Array:
    """dx/dt in the model's own time."""
    if spec.prediction == "velocity":
        return prediction
    if spec.path == "reversed":
        return np.asarray((prediction - x) / np.float32(max(1 - t, MIN_TIME)))
    return np.asarray((x - prediction) / np.float32(max(t, MIN_TIME)))


def _ddim(x: Array, noise: Array, step: int, after: int) -> Array:
    """`x_t = sqrt(a_t) x0 + sqrt(1 - a_t) eps`: solved for x0, and mixed again for the step `after`."""
    kept, kept_after = _signal_power(step), _signal_power(after)
    data = (x - np.float32(math.sqrt(1 - kept)) * noise) / np.float32(math.sqrt(kept))
    return np.asarray(np.float32(math.sqrt(kept_after)) * data + np.float32(math.sqrt(1 - kept_after)) * noise)


def _spaced_steps(count: int) -> Array:
    """`count` whole steps from 0 to 999, as released: the sum of strides decides how halves are rounded."""
    if count == 1:
        return np.array([DIFFUSION_STEPS - 1])  # the only step that starts from noise
    strides = np.full(count - 1, (DIFFUSION_STEPS - 1) / (count - 1))
    return np.asarray(np.rint(np.append(0, np.cumsum(strides))))


def _signal_power(step: int) -> float:
    """The share of clean data in the variance of `x` after `step` (alpha-bar); 1 before the first step."""
    return float(np.prod(1 - np.linspace(FIRST_BETA, LAST_BETA, DIFFUSION_STEPS)[: step + 1]))
