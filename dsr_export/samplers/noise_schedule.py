"""The share of clean data that is left after each training step of a diffusion, as diffusers computes it: in float32.

Sources: DDPM 2006.11239 (linear), latent diffusion 2112.10752 (scaled_linear), improved DDPM 2102.09672
(squaredcos_cap_v2), "Common diffusion noise schedules are flawed" 2305.08891 (zero terminal SNR).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dsr_export.samplers.sampler import Array
from dsr_export.samplers.settings import MOST_TRAIN_STEPS, refuse

LARGEST_COSINE_BETA = 0.999


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """How much noise each training step adds (its beta), with diffusers' names and defaults."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        count, given = self.num_train_timesteps, self.trained_betas
        refuse(
            [
                (not 1 <= count <= MOST_TRAIN_STEPS, f"num_train_timesteps is not from 1 to {MOST_TRAIN_STEPS}"),
                (
                    not (0 <= self.beta_start < 1 and 0 <= self.beta_end < 1),
                    "beta_start or beta_end is not in [0, 1)",
                ),
                (
                    given is not None and len(given) != count,
                    f"trained_betas holds {len(given or ())} values for {count} steps (num_train_timesteps)",
                ),
            ]
        )

    def clean_shares(self) -> Array:
        """`alphas_cumprod [num_train_timesteps]` float32: the share of clean data in the variance after each step."""
        betas = self._betas()
        if self.rescale_betas_zero_snr:
            with np.errstate(
                divide="ignore", invalid="ignore"
            ):  # of betas that are all 0; the caller refuses the result
                betas = _without_last_signal(betas)
        return kept(betas)

    def _betas(self) -> Array:
        count = self.num_train_timesteps
        if self.trained_betas is not None:
            return np.array(self.trained_betas, np.float32)
        if self.beta_schedule == "linear":
            return _even_steps(self.beta_start, self.beta_end, count)
        if self.beta_schedule == "scaled_linear":
            return np.asarray(_even_steps(self.beta_start**0.5, self.beta_end**0.5, count) ** 2)
        shares = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        betas = [min(1 - after / before, LARGEST_COSINE_BETA) for before, after in itertools.pairwise(shares)]
        return np.array(betas, np.float32)


def kept(betas: Array) -> Array:
    """The product of `1 - beta` up to each step, [steps] float32, multiplied in float64 as PyTorch does."""
    return np.cumprod((1 - betas).astype(np.float64)).astype(np.float32)


def _even_steps(first: float, last: float, count: int) -> Array:
    """`torch.linspace` in float32: from both ends to the middle, each value rounded once."""
    if count == 1:
        return np.array([first], np.float32)
    ends = np.array([first, last], np.float32).astype(np.float64)
    step, places = np.float64(np.float32(np.float32(ends[1] - ends[0]) / np.float32(count - 1))), np.arange(count)
    values = np.where(places < count // 2, ends[0] + step * places, ends[1] - step * (count - 1 - places))
    return np.asarray(values, np.float32)


def _without_last_signal(betas: Array) -> Array:
    """Betas whose last step leaves no clean data, and whose first leaves what it left."""
    amplitudes = np.sqrt(kept(betas))
    first, last = amplitudes[0], amplitudes[-1]
    shares = ((amplitudes - last) * (first / (first - last))) ** 2
    return np.asarray(1 - np.append(shares[:1], shares[1:] / shares[:-1]))
