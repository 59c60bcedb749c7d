"""Euler steps along the straight paths of flow matching, as diffusers' FlowMatchEulerDiscreteScheduler takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dsr_export.errors import ExportError
from dsr_export.samplers import sigma_schedules
from dsr_export.samplers.sampler import Array, Sampler, Start, Walk, check_finite, fitting
from dsr_export.samplers.settings import MOST_TRAIN_STEPS, refuse

NAME = "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True, kw_only=True)
class FlowMatchEuler(Sampler):
    """The scheduler's settings, with diffusers' names and defaults.

    `sigma_min` and `sigma_max` are no settings of this class, but diffusers reads them where a file holds them.
    """

    NAME: ClassVar[str] = NAME
    TAKES: ClassVar[frozenset[str]] = frozenset({"sigmas"})

    num_train_timesteps: int = 1000
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float | None = 0.5
    max_shift: float | None = 1.15
    base_image_seq_len: int | None = 256
    max_image_seq_len: int | None = 4096
    invert_sigmas: bool = False
    shift_terminal: float | None = None
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    stochastic_sampling: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        forms = (self.use_karras_sigmas, self.use_exponential_sigmas, self.use_beta_sigmas)
        refuse(
            [
                (not 1 <= self.num_train_timesteps <= MOST_TRAIN_STEPS, "num_train_timesteps is out of range"),
                (not 0 < self.shift < math.inf, "shift must be above 0"),
                (not 0 <= (self.shift_terminal or 0) < 1, "shift_terminal must be from 0 to below 1"),
                (sum(forms) > 1, "only one of use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas holds"),
            ]
        )

    def _walk(self, asked: Start) -> FlowMatchWalk:
        steps = asked.steps
        with np.errstate(all="ignore"):  # what is not finite is refused below
            even = self._even(steps) if asked.sigmas is None else _given(asked.sigmas, steps)
            levels = self._spread(self._shifted(even, self._mu(asked.image_tokens, asked.mu)), steps).astype(np.float32)
        levels = 1 - levels if self.invert_sigmas else levels
        check_finite(NAME, steps, levels)
        end = np.float32(self.invert_sigmas)
        return FlowMatchWalk(
            levels * np.float32(self.num_train_timesteps), np.append(levels, end), self.stochastic_sampling
        )

    def _even(self, steps: int) -> Array:
        """Between the ends of the training schedule, which is shifted once itself, in float32."""
        count = self.num_train_timesteps
        ends = np.array([count, 1], np.float32) / count
        if not self.use_dynamic_shifting:
            ends = sigma_schedules.shifted(ends, self.shift)
        first, last = ends.tolist()
        return np.asarray(np.linspace(first * count, last * count, steps) / count)

    def _mu(self, image_tokens: int | None, mu: float | None) -> float | None:
        if not self.use_dynamic_shifting:
            return None
        if mu is not None:
            return sigma_schedules.checked_mu(mu)
        base, most = (self.base_image_seq_len, self.base_shift), (self.max_image_seq_len, self.max_shift)
        return sigma_schedules.dynamic_mu(image_tokens, base=base, most=most)

    def _shifted(self, sigmas: Array, mu: float | None) -> Array:
        if mu is not None:
            weight = math.exp(mu) if self.time_shift_type == "exponential" else mu
            sigmas = sigma_schedules.shifted_by_odds(sigmas, weight)
        else:
            sigmas = sigma_schedules.shifted(sigmas, self.shift)
        return sigma_schedules.stretched(sigmas, self.shift_terminal) if self.shift_terminal else sigmas

    def _spread(self, sigmas: Array, steps: int) -> Array:
        """Spread anew between the same ends, where the settings say so."""
        first, last = float(sigmas[0]), float(sigmas[-1])
        ends = (first if self.sigma_max is None else self.sigma_max, last if self.sigma_min is None else self.sigma_min)
        if self.use_karras_sigmas:
            return sigma_schedules.karras(*ends, steps)
        if self.use_exponential_sigmas:
            return sigma_schedules.exponential(*ends, steps)
        return sigma_schedules.beta(*ends, steps) if self.use_beta_sigmas else sigmas


class FlowMatchWalk(Walk):
    """`sigmas [steps + 1]`: `x + (after - now) v`, or with noise, x0 mixed with fresh noise at the level after."""

    def __init__(self, timesteps: Array, sigmas: Array, stochastic: bool) -> None:
        super().__init__(timesteps)
        self.sigmas = sigmas
        self.needs_noise = stochastic

    def step(self, prediction: Array, i: int, x: Array, noise: Array | None = None) -> Array:
        """See `Walk.step`. diffusers rounds the state to float32 at every step."""
        now, after = self.sigmas[i], self.sigmas[i + 1]
        velocity, state = fitting(prediction, x, "a prediction"), x.astype(np.float32)
        if not self.needs_noise:
            return np.asarray(state + (after - now) * velocity, x.dtype)
        fresh = self._noise(noise, state)
        return np.asarray((np.float32(1) - after) * (state - now * velocity) + after * fresh, x.dtype)


def _given(sigmas: Sequence[float], steps: int) -> Array:
    """A caller's own levels, [steps]. They are float32 from here on."""
    levels = np.array(sigmas, np.float32)
    if levels.shape != (steps,) or not np.isfinite(levels).all():
        raise ExportError(f"{len(sigmas)} sigmas for {steps} steps", hint="give one finite number for each step")
    return levels
