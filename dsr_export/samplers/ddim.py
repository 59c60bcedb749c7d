"""DDIM's steps (2010.02502), as diffusers' DDIMScheduler takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dsr_export.errors import ExportError
from dsr_export.samplers.noise_schedule import NoiseSettings
from dsr_export.samplers.sampler import Array, Sampler, Start, Walk, check_finite, fitting
from dsr_export.samplers.settings import refuse
from dsr_export.samplers.thresholding import ThresholdSettings
from dsr_export.samplers.timestep_spacing import Spacing, ddim_timesteps

NAME = "DDIMScheduler"


@dataclass(frozen=True, kw_only=True)
class Ddim(NoiseSettings, ThresholdSettings, Sampler):
    """The scheduler's settings, with diffusers' names and defaults."""

    NAME: ClassVar[str] = NAME
    TAKES: ClassVar[frozenset[str]] = frozenset({"eta"})

    clip_sample: bool = True
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Spacing = "leading"

    def __post_init__(self) -> None:
        NoiseSettings.__post_init__(self)
        ThresholdSettings.__post_init__(self)
        refuse(
            [
                (not self.clip_sample_range > 0, "clip_sample_range is not above 0"),
                (not 0 <= self.steps_offset < self.num_train_timesteps, "steps_offset is outside the training steps"),
            ]
        )

    def _walk(self, asked: Start) -> DdimWalk:
        """`eta` is the share of noise: 0 for DDIM, 1 for DDPM."""
        steps, trained, eta = asked.steps, self.num_train_timesteps, asked.eta
        if steps > trained:
            raise ExportError(f"{steps} steps of {NAME}", hint=f"give at most {trained}, those it was trained on")
        if not 0 <= eta <= 1:
            raise ExportError(f"eta is {eta}", hint="give 0 for DDIM, 1 for DDPM, or a number between")
        times = ddim_timesteps(steps, self.timestep_spacing, trained=trained, offset=self.steps_offset)
        if times.max() >= trained:
            raise ExportError(
                f"{steps} steps with steps_offset {self.steps_offset} begin at step {times.max()} of {trained}",
                hint="give fewer steps",
            )
        now, after = self._shares(times, trained // steps)
        walk = DdimWalk(self, times, now, after, eta)
        self._check(walk, steps)
        return walk

    def _shares(self, times: Array, stride: int) -> tuple[Array, Array]:
        """The shares of clean data before and after each step, float32."""
        shares, before = self.clean_shares(), times - stride
        end = np.float32(1) if self.set_alpha_to_one else shares[0]
        return shares[times], np.where(before >= 0, shares[before], end)

    def _check(self, walk: DdimWalk, steps: int) -> None:
        if self.prediction_type == "epsilon" and not walk.signal.all():
            raise ExportError(
                f"step {walk.timesteps[0]} is noise alone (rescale_betas_zero_snr); epsilon can't start there",
                hint="such a model predicts v_prediction or sample: correct scheduler_config.json",
            )
        check_finite(NAME, steps, walk.signal, walk.noise, walk.signal_after, walk.direction, walk.fresh)


class DdimWalk(Walk):
    """Amplitudes of signal and noise at each step, and of the signal, old noise and fresh noise after it, float32."""

    def __init__(self, settings: Ddim, timesteps: Array, now: Array, after: Array, eta: float) -> None:
        super().__init__(timesteps)
        self.settings = settings
        self.needs_noise = eta > 0
        self.signal, self.noise, self.signal_after = np.sqrt(now), np.sqrt(1 - now), np.sqrt(after)
        with np.errstate(divide="ignore", invalid="ignore"):  # refused by `Ddim._check`
            self.fresh = np.float32(eta) * np.sqrt((1 - after) / (1 - now) * (1 - now / after))
            # Nothing of the old noise is left where eta is 1 and the step starts from noise alone, but for rounding.
            self.direction = np.sqrt(np.maximum(1 - after - self.fresh**2, 0))

    def step(self, prediction: Array, i: int, x: Array, noise: Array | None = None) -> Array:
        """See `Walk.step`."""
        clean, old_noise = self._parts(fitting(prediction, x, "a prediction"), i, x)
        if self.settings.thresholding:
            clean = self.settings.limited(clean)
        elif self.settings.clip_sample:
            clean = np.clip(clean, -self.settings.clip_sample_range, self.settings.clip_sample_range)
        state = self.signal_after[i] * clean + self.direction[i] * old_noise
        if self.needs_noise:
            state = state + self.fresh[i] * self._noise(noise, x)
        return np.asarray(state, x.dtype)

    def _parts(self, made: Array, i: int, x: Array) -> tuple[Array, Array]:
        """The clean data and the noise in `x`, by what the denoiser predicts."""
        signal, noise = self.signal[i], self.noise[i]
        if self.settings.prediction_type == "epsilon":
            return (x - noise * made) / signal, made
        if self.settings.prediction_type == "sample":
            return made, (x - signal * made) / noise
        return signal * x - noise * made, signal * made + noise * x
