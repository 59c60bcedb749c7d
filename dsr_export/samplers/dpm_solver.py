"""DPM-Solver and DPM-Solver++ of several steps, as diffusers' DPMSolverMultistepScheduler takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dsr_export.samplers.predictions import Conversion, Prediction
from dsr_export.samplers.sampler import Array, Sampler, Start, Walk, check_finite
from dsr_export.samplers.settings import refuse
from dsr_export.samplers.solver_schedule import SolverSchedule
from dsr_export.samplers.solver_updates import Algorithm, Solver, SolverUpdates, noise_levels, solver_updates
from dsr_export.samplers.thresholding import ThresholdSettings

NAME = "DPMSolverMultistepScheduler"
LEARNED = ("learned", "learned_range")
Variance = Literal["learned", "learned_range", "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"]
"""Fixed ones are DDPM's; no solver reads them."""
FEW_STEPS = 15  # below, `lower_order_final` holds


@dataclass(frozen=True, kw_only=True)
class DpmSolver(SolverSchedule, ThresholdSettings, Sampler):
    """The scheduler's settings, with diffusers' names and defaults; some are names of other schedulers' solvers."""

    NAME: ClassVar[str] = NAME

    solver_order: int = 2
    prediction_type: Prediction = "epsilon"
    algorithm_type: Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    variance_type: Variance | None = None

    def __post_init__(self) -> None:
        SolverSchedule.__post_init__(self)
        ThresholdSettings.__post_init__(self)
        named = f"algorithm_type {self._algorithm}"
        for_noise, third = not self._algorithm.endswith("++"), self.solver_order == 3
        refuse(
            [
                (not 1 <= self.solver_order <= 3, f"solver_order is {self.solver_order}, but must be 1, 2 or 3"),
                (third and self._algorithm == "sde-dpmsolver", f"{named} has no solver_order 3"),
                (for_noise and self.final_sigmas_type == "zero", f"{named} needs final_sigmas_type sigma_min"),
                (for_noise and self.prediction_type == "flow_prediction", f"{named} takes no flow_prediction"),
            ]
        )

    def _walk(self, asked: Start) -> DpmSolverWalk:
        """Where neither `mu` nor `image_tokens` is given, `flow_shift` holds."""
        times, levels = self.schedule(asked.steps, image_tokens=asked.image_tokens, mu=asked.mu)
        check_finite(NAME, asked.steps, times, levels)
        alphas, amplitudes = noise_levels(levels, flow=self.use_flow_sigmas)
        orders = [self._order(i, len(times)) for i in range(len(times))]
        updates = solver_updates(alphas, amplitudes, orders, algorithm=self._algorithm, solver=self._solver)
        updates.check(NAME, asked.steps)
        conversion = Conversion(
            prediction=self.prediction_type,
            to_data=self._algorithm.endswith("++"),
            learned_variance=self.variance_type in LEARNED,
            limited=self.limited if self.thresholding else None,
            sigmas=levels,
            alphas=alphas,
            amplitudes=amplitudes,
        )
        return DpmSolverWalk(times.astype(np.int64), conversion, updates, noisy=self._algorithm.startswith("sde"))

    @property
    def _algorithm(self) -> Algorithm:
        return "dpmsolver++" if self.algorithm_type == "deis" else self.algorithm_type

    @property
    def _solver(self) -> Solver:
        return "heun" if self.solver_type == "heun" else "midpoint"

    def _order(self, i: int, steps: int) -> int:
        """Of the update at step `i`: lower while there are few predictions, and at the end where settings say so."""
        few = self.lower_order_final and steps < FEW_STEPS
        if i == steps - 1 and (self.euler_at_final or few or self.final_sigmas_type == "zero"):
            return 1
        return min(self.solver_order, i + 1, 2 if few and i == steps - 2 else 3)


class DpmSolverWalk(Walk):
    """Keeps the last three predictions, as the updates take them."""

    def __init__(self, timesteps: Array, conversion: Conversion, updates: SolverUpdates, *, noisy: bool) -> None:
        super().__init__(timesteps)
        self.needs_noise = noisy
        self._conversion, self._updates = conversion, updates
        self._made: list[Array] = []
        self._taken = 0

    def step(self, prediction: Array, i: int, x: Array, noise: Array | None = None) -> Array:
        """See `Walk.step`. diffusers rounds state and noise to float32 at every step, but not the predictions."""
        if i != self._taken:
            raise ValueError(f"step {i} after {self._taken} steps")
        made = self._conversion.converted(prediction, i, x)
        fresh = self._noise(noise, x).astype(np.float32) if self.needs_noise else None
        self._taken, self._made = i + 1, [*self._made[-2:], made]
        state = self._updates.combined(i, x.astype(np.float32), self._made)
        if fresh is not None:
            state = state + self._updates.fresh[i] * fresh
        return np.asarray(state, x.dtype)
