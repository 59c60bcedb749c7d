"""What every sampler is: settings that start walks, and a walk that takes the denoiser's predictions step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError
from dsr_export.limits import MOST_STEPS

Array = npt.NDArray[Any]


class Walk(ABC):
    """One walk from noise to data: `step` for i = 0, 1, ... in order, each once.

    `timesteps [n]` is what the denoiser gets at each step; there may be one more than was asked for, where diffusers
    makes one more. `initial_scale` is what standard normal noise is multiplied by before the first step.
    `needs_noise` says that `step` takes standard normal noise of the shape of the state.

    The numbers are diffusers' own, its rounding included: its tables are float32, whatever the samples are.
    """

    initial_scale: float = 1.0
    needs_noise: bool = False

    def __init__(self, timesteps: Array) -> None:
        self.timesteps = timesteps

    def scaled(self, x: Array, i: int) -> Array:
        """What the denoiser gets for the state `x` at step `i`."""
        return x

    @abstractmethod
    def step(self, prediction: Array, i: int, x: Array, noise: Array | None = None) -> Array:
        """The state after step `i`, of the dtype of `x` (float32 or float64), `[n, C, ...]` as `x`.

        Raises ExportError where the prediction does not have the shape of `x`, or noise is missing.
        """

    def _noise(self, noise: Array | None, x: Array) -> Array:
        if noise is None:
            raise ExportError("this sampler adds noise at every step, and none is given")
        return fitting(noise, x, "noise")


@dataclass(frozen=True, kw_only=True)
class Start:
    """What `Sampler.start` was asked for."""

    steps: int
    image_tokens: int | None = None
    mu: float | None = None
    sigmas: Sequence[float] | None = None
    eta: float = 0.0


class Sampler(ABC):
    """A scheduler's settings. Values that make no walk are refused by `start`."""

    NAME: ClassVar[str]
    TAKES: ClassVar[frozenset[str]] = frozenset()
    """Which of `sigmas` and `eta`."""

    def start(
        self,
        steps: int,
        *,
        image_tokens: int | None = None,
        mu: float | None = None,
        sigmas: Sequence[float] | None = None,
        eta: float = 0.0,
    ) -> Walk:
        """A fresh walk of `steps` steps.

        `mu` is the shift of schedules that follow the picture's size, or it is found from `image_tokens`, the tokens
        of the picture in the transformer; other schedules take neither into account. `sigmas [steps]` replace the
        even ones where the scheduler takes any; `eta` is DDIM's share of noise.

        Raises ExportError for steps, sigmas or an `eta` that the scheduler doesn't take.
        """
        if sigmas is not None and "sigmas" not in self.TAKES:
            raise ExportError(f"{self.NAME} takes no sigmas", hint="leave them out: its settings make its own")
        if eta and "eta" not in self.TAKES:
            raise ExportError(f"{self.NAME} takes no eta", hint="only DDIMScheduler does")
        if not 1 <= steps <= MOST_STEPS:
            raise ExportError(f"a sampler of {steps} steps", hint=f"give 1 to {MOST_STEPS}")
        return self._walk(Start(steps=steps, image_tokens=image_tokens, mu=mu, sigmas=sigmas, eta=eta))

    @abstractmethod
    def _walk(self, asked: Start) -> Walk:
        """A walk of what is taken."""


def fitting(values: Array, x: Array, name: str) -> Array:
    """`values` in the dtype of `x`. ExportError where they do not have its shape."""
    if values.shape != x.shape:
        raise ExportError(f"{name} of {list(values.shape)} for a state of {list(x.shape)}")
    return values.astype(x.dtype, copy=False)


def check_finite(name: str, steps: int, *tables: Array) -> None:
    """ExportError where a schedule holds a value that is no number: diffusers would make a picture of NaN of it."""
    if not all(np.isfinite(table).all() for table in tables):
        raise ExportError(f"{name} makes no finite schedule of {steps} steps", hint="give another number of steps")
