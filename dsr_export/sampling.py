"""Deterministic samplers with classifier-free guidance, in numpy, around any denoiser callable.

Three paths from noise to data. Sources: the RAE / DSR samplers (arXiv 2510.11690, 2605.05206) for `linear`, SiT
(2401.08740) and JiT (2511.13720) for `reversed`, DiT (2212.09748) and DDIM (2010.02502, eta 0) for `ddpm`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError, RunnerError
from dsr_export.limits import MOST_STEPS
from graphs.sampling.fused_step import COLUMNS, INDEX, LABELS, NEXT_INDEX, NEXT_STATE, ROWS, STATE, TABLE

Array = npt.NDArray[Any]
Denoiser = Callable[[dict[str, Array]], Array]
"""Takes `x [n, C, H, W]`, `t [n]`, `y [n]` and returns `out [n, C or more, H, W]`, all float32 but the labels (int64).

Channels beyond the first C (a learned variance) do not enter these samplers."""
Stepper = Callable[[dict[str, Array]], Mapping[str, Array]]
"""A graph of `graphs.sampling.fused_step`, called: its inputs to its outputs."""

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
    x = (noise * spec.noise_scale).astype(np.float32)
    for i, (t, keep, take, guidance) in enumerate(step_table(spec)):
        inputs = _inputs(spec, x, t, labels)
        prediction = _guided(_prediction(denoiser, inputs), spec, guidance)
        x = keep * x + take * prediction
        yield Step(i, inputs, x)


def step_table(spec: SamplerSpec) -> Array:
    """Time, `keep`, `take` and guidance of each step, [num_steps - 1, 4] float32.

    Every step of `trajectory` is `keep * x + take * prediction`: a graph that holds it needs no more than these.
    """
    grid = spec.grid
    rows = [(t, *_factors(spec, float(t), float(after)), spec.guidance) for t, after in itertools.pairwise(grid)]
    return np.array(rows, np.float32)


def fused_trajectory(step: Stepper, spec: SamplerSpec, noise: Array, labels: Array) -> Iterator[Step]:
    """As `trajectory`, through a graph that holds the whole step (`graphs.sampling.fused_step`): one call for each.

    What `step` makes is fed to it again as it is, on a GPU or off it: `Step.state` is what `np.asarray` reads.
    `spec` has guidance where the graph was made with it, and no more steps than the graph's table has rows.

    Raises:
        RunnerError: `step` does not make what a step does.
    """
    rows = step_table(spec)
    table = np.zeros((ROWS, COLUMNS), np.float32)
    table[: len(rows)] = rows
    fed: dict[str, Array] = {TABLE: table, LABELS: labels.astype(np.int64)}
    state, index = (noise * spec.noise_scale).astype(np.float32), np.zeros(1, np.int64)
    for i in range(len(rows)):
        inputs = {**fed, STATE: state, INDEX: index}
        made = stepped(step, inputs)
        state, index = made[NEXT_STATE], made[NEXT_INDEX]
        yield Step(i, inputs, state)


def stepped(step: Stepper, fed: dict[str, Array]) -> Mapping[str, Array]:
    """What `step` makes of `fed`. RunnerError where that can't be fed to it again: any graph may lie in a bundle."""
    made = step(fed)
    for output, taken in ((NEXT_STATE, STATE), (NEXT_INDEX, INDEX)):
        given, wanted = made.get(output), fed[taken]
        if given is None or (given.dtype, tuple(given.shape)) != (wanted.dtype, wanted.shape):
            told = f"'{output}' {given.dtype} {list(given.shape)}" if given is not None else f"no '{output}'"
            raise RunnerError(
                f"the step gives {told} for '{taken}' {wanted.dtype} {list(wanted.shape)}",
                hint="build the bundle again",
            )
    return made


def sample(denoiser: Denoiser, spec: SamplerSpec, noise: Array, labels: Array) -> Array:
    """The final state of `trajectory`, [n, C, H, W] float32."""
    state = noise
    for step in trajectory(denoiser, spec, noise, labels):
        state = step.state
    return state


def seeded_noise(seed: int, count: int, shape: tuple[int, ...], *, first: int = 0) -> Array:
    """Standard normal noise [count, *shape] float32 of the images from `first` on; image i is the same in any call."""
    rows = [np.random.default_rng([seed, i]).standard_normal(shape) for i in range(first, first + count)]
    return np.stack(rows).astype(np.float32)


def _inputs(spec: SamplerSpec, x: Array, t: Array, labels: Array) -> dict[str, Array]:
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


def _guided(prediction: Array, spec: SamplerSpec, guidance: Array) -> Array:
    if spec.guidance == 1.0:
        return prediction
    conditional, null = np.split(prediction, 2)
    return np.asarray(null + guidance * (conditional - null))


def _factors(spec: SamplerSpec, t: float, after: float) -> tuple[float, float]:
    """`keep` and `take`: the state at the time `after` is `keep * x + take * prediction`, an Euler step or DDIM's.

    Euler: `x + (after - t) * dx/dt`, where a prediction of data means `dx/dt = (x - prediction) / t`, or on the
    reversed path `(prediction - x) / (1 - t)`. DDIM: `x = sqrt(a) x0 + sqrt(1 - a) eps`, solved for x0 and mixed again.
    """
    if spec.path == "ddpm":
        kept, kept_after = _signal_power(int(t)), _signal_power(int(after))
        keep = math.sqrt(kept_after / kept)
        return keep, math.sqrt(1 - kept_after) - keep * math.sqrt(1 - kept)
    if spec.prediction == "velocity":
        return 1.0, after - t
    ahead = spec.path == "reversed"
    share = (after - t) / max(1 - t if ahead else t, MIN_TIME)
    return (1 - share, share) if ahead else (1 + share, -share)


def _spaced_steps(count: int) -> Array:
    """`count` whole steps from 0 to 999, as released: the sum of strides decides how halves are rounded."""
    if count == 1:
        return np.array([DIFFUSION_STEPS - 1])  # the only step that starts from noise
    strides = np.full(count - 1, (DIFFUSION_STEPS - 1) / (count - 1))
    return np.asarray(np.rint(np.append(0, np.cumsum(strides))))


def _signal_power(step: int) -> float:
    """The share of clean data in the variance of `x` after `step` (alpha-bar); 1 before the first step."""
    return float(np.prod(1 - np.linspace(FIRST_BETA, LAST_BETA, DIFFUSION_STEPS)[: step + 1]))
