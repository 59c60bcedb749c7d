"""The timesteps and noise levels at which DPM-Solver calls its denoiser, as diffusers' schedulers space them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dsr_export.errors import ExportError
from dsr_export.samplers import sigma_schedules
from dsr_export.samplers.noise_schedule import NoiseSettings
from dsr_export.samplers.sampler import Array
from dsr_export.samplers.settings import refuse
from dsr_export.samplers.timestep_spacing import Spacing, solver_timesteps, timesteps_of_levels

ZERO_SNR_LEFT = 2.0**-24  # diffusers leaves this share of clean data, so that the first sigma is finite


@dataclass(frozen=True, kw_only=True)
class SolverSchedule(NoiseSettings):
    """With diffusers' names and defaults.

    `sigma_min`, `sigma_max` and the four of the picture's size (`base_shift`, ...) are no settings of the scheduler,
    but diffusers or its pipelines read them where a file holds them.
    """

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    use_lu_lambdas: bool = False
    use_flow_sigmas: bool = False
    flow_shift: float = 1.0
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lambda_min_clipped: float = -math.inf
    timestep_spacing: Spacing = "linspace"
    steps_offset: int = 0
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    sigma_min: float | None = None
    sigma_max: float | None = None
    base_shift: float | None = None
    max_shift: float | None = None
    base_image_seq_len: int | None = None
    max_image_seq_len: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        spread = (self.use_karras_sigmas, self.use_exponential_sigmas, self.use_beta_sigmas)
        refuse(
            [
                (sum(spread) > 1, "only one of use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas holds"),
                (not 0 < self.flow_shift < math.inf, "flow_shift is not above 0"),
                (not 0 <= self.steps_offset <= self.num_train_timesteps, "steps_offset is outside the training steps"),
            ]
        )

    def schedule(self, steps: int, *, image_tokens: int | None, mu: float | None) -> tuple[Array, Array]:
        """Timesteps `[n]` and sigmas `[n + 1]` (float32), the last one that of the finished sample.

        Either may hold a value that is not finite: the caller refuses those.
        """
        shift = self._shift(image_tokens, mu)
        shares = self.clean_shares()
        if self.rescale_betas_zero_snr:
            shares[-1] = ZERO_SNR_LEFT
        with np.errstate(all="ignore"):
            trained = np.sqrt((1 - shares) / shares)
            times, sigmas = self._flow(steps, shift) if self._is_flow else self._diffusion(steps, shares, trained)
            end = trained[0] if self.final_sigmas_type == "sigma_min" else 0.0
        return times, np.append(sigmas, end).astype(np.float32)

    @property
    def _respaced(self) -> bool:
        """Whether other spacings come before that of flow matching."""
        return self.use_karras_sigmas or self.use_lu_lambdas or self.use_exponential_sigmas or self.use_beta_sigmas

    @property
    def _is_flow(self) -> bool:
        return self.use_flow_sigmas and not self._respaced

    def _flow(self, steps: int, shift: float) -> tuple[Array, Array]:
        even = 1 - np.linspace(1, 1 / self.num_train_timesteps, steps + 1)
        sigmas = sigma_schedules.shifted(even, shift)[:0:-1]
        return sigmas * self.num_train_timesteps, sigmas

    def _diffusion(self, steps: int, shares: Array, trained: Array) -> tuple[Array, Array]:
        """`shares` of clean data and sigmas after each training step."""
        if not self._respaced:
            last = len(shares) - clipped_steps(shares, self.lambda_min_clipped)
            times = solver_timesteps(
                steps, self.timestep_spacing, trained=len(shares), last=last, offset=self.steps_offset
            )
            return times, np.interp(times, np.arange(len(trained)), trained)
        logs = np.log(trained)
        sigmas = self._respace(steps, trained, logs)
        times = timesteps_of_levels(np.log(np.maximum(sigmas, 1e-10)), logs)
        whole = (self.use_karras_sigmas or self.use_lu_lambdas) and self.beta_schedule != "squaredcos_cap_v2"
        return times.round() if whole else times, sigmas

    def _respace(self, steps: int, trained: Array, logs: Array) -> Array:
        largest = float(trained[-1]) if self.sigma_max is None else self.sigma_max
        smallest = float(trained[0]) if self.sigma_min is None else self.sigma_min
        if self.use_karras_sigmas:
            return sigma_schedules.karras(largest, smallest, steps)
        if self.use_lu_lambdas:
            return sigma_schedules.even_logarithms(float(logs[-1]), float(logs[0]), steps)
        if self.use_exponential_sigmas:
            return sigma_schedules.exponential(largest, smallest, steps)
        return sigma_schedules.beta(largest, smallest, steps)

    def _shift(self, image_tokens: int | None, mu: float | None) -> float:
        if mu is not None and not self.use_dynamic_shifting:
            raise ExportError("mu is for schedules with use_dynamic_shifting", hint="leave it out")
        if not self.use_dynamic_shifting or (mu is None and image_tokens is None):
            return self.flow_shift
        if self.time_shift_type != "exponential":
            raise ExportError("scheduler_config.json: DPM-Solver knows no time_shift_type linear")
        base, most = (self.base_image_seq_len, self.base_shift), (self.max_image_seq_len, self.max_shift)
        found = sigma_schedules.dynamic_mu(image_tokens, base=base, most=most) if mu is None else mu
        return math.exp(sigma_schedules.checked_mu(found))


def clipped_steps(shares: Array, smallest: float) -> int:
    """Training steps from the noisiest whose log-SNR (lambda) is below `smallest`."""
    lambdas = log(np.sqrt(shares)) - log(np.sqrt(1 - shares))
    return int(np.searchsorted(lambdas[::-1], np.float32(smallest)))


def log(values: Array) -> Array:
    """float32, rounded to nearest as PyTorch's mostly is: numpy's own is off by one bit more often."""
    return np.log(values.astype(np.float64)).astype(np.float32)
