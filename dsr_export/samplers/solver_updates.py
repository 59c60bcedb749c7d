"""The updates of multistep DPM-Solver as tables of numbers, one row for each step; all in float32, as in diffusers.

Sources: DPM-Solver 2206.00927 (`dpmsolver`, for a predicted noise), DPM-Solver++ 2211.01095 (`dpmsolver++`, for
predicted data), and its variants of stochastic equations. With h the step in log-SNR (lambda), the state after it is

    keep x + take[0] D0 + take[1] D1 + take[2] D2 + fresh noise

where D0 is the newest prediction and D1, D2 are differences of the last two or three, scaled by the earlier steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dsr_export.samplers.sampler import Array, check_finite
from dsr_export.samplers.solver_schedule import log

Algorithm = Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"]
Solver = Literal["midpoint", "heun"]


@dataclass(frozen=True, kw_only=True)
class SolverUpdates:
    """`orders [n]`; `keep`, `fresh` [n]; `take [3, n]` of D0, D1, D2; and what the differences are scaled by, [n] each.

    `newer` and `older` scale the differences of the last two predictions and of the two before; `bend` and `curve`
    make D1 and D2 of their difference.
    """

    orders: Sequence[int]
    keep: Array
    take: Array
    fresh: Array
    newer: Array
    older: Array
    bend: Array
    curve: Array

    def combined(self, i: int, x: Array, made: Sequence[Array]) -> Array:
        """The state after step `i` without fresh noise, of `made`, the predictions so far, the newest last."""
        keep, (take0, take1, take2) = self.keep[i], self.take[:, i]
        state = keep * x + take0 * made[-1]
        if self.orders[i] == 1:
            return np.asarray(state)
        slope = self.newer[i] * (made[-1] - made[-2])
        if self.orders[i] == 2:
            return np.asarray(state + take1 * slope)
        change = slope - self.older[i] * (made[-2] - made[-3])
        return np.asarray(state + take1 * (slope + self.bend[i] * change) + take2 * (self.curve[i] * change))

    def check(self, name: str, steps: int) -> None:
        """ExportError where a number that enters a step is not finite."""
        orders = np.array(self.orders)
        check_finite(name, steps, self.keep, self.take[0], self.fresh)
        check_finite(name, steps, *(table[orders > 1] for table in (self.take[1], self.newer)))
        check_finite(name, steps, *(table[orders > 2] for table in (self.take[2], self.older, self.bend, self.curve)))


def solver_updates(
    alphas: Array, sigmas: Array, orders: Sequence[int], *, algorithm: Algorithm, solver: Solver
) -> SolverUpdates:
    """Of the amplitudes of signal and noise, `alphas` and `sigmas` [n + 1] float32, before each step and at the end."""
    with np.errstate(all="ignore"):  # the last sigma may be 0; what enters a step is checked
        lambdas = log(alphas) - log(sigmas)
        h = np.diff(lambdas)
        keep, take, fresh = _weights(alphas, sigmas, h, algorithm)
        midpoint = (np.array(orders) == 2) & (solver == "midpoint")
        take[1] = np.where(midpoint, np.float32(0.5) * take[0], take[1])
        last, before = _earlier(h, 1) / h, _earlier(h, 2) / h
        scales = {"newer": 1 / last, "older": 1 / before, "bend": last / (last + before), "curve": 1 / (last + before)}
    return SolverUpdates(orders=orders, keep=keep, take=take, fresh=fresh, **scales)


def noise_levels(sigmas: Array, *, flow: bool) -> tuple[Array, Array]:
    """The amplitudes of signal and noise at `sigmas`: on flow matching's straight path, or of unit variance."""
    if flow:
        return 1 - sigmas, sigmas
    alphas = 1 / np.sqrt(sigmas**2 + 1)
    return alphas, sigmas * alphas


def _weights(alphas: Array, sigmas: Array, h: Array, algorithm: Algorithm) -> tuple[Array, Array, Array]:
    """`keep`, `take` of D0, D1 (as `heun` and third order have it) and D2, and `fresh`."""
    alpha, sigma, none = alphas[1:], sigmas[1:], np.zeros_like(h)
    if algorithm == "dpmsolver++":
        e = _exp(-h)
        take = [-(alpha * (e - 1)), alpha * ((e - 1) / h + 1), -(alpha * ((e - 1 + h) / h**2 - 0.5))]
        return sigma / sigmas[:-1], np.stack(take), none
    if algorithm == "dpmsolver":
        e = _exp(h)
        take = [-(sigma * (e - 1)), -(sigma * ((e - 1) / h - 1)), -(sigma * ((e - 1 - h) / h**2 - 0.5))]
        return alpha / alphas[:-1], np.stack(take), none
    if algorithm == "sde-dpmsolver":
        e = _exp(h)
        take = [-2 * (sigma * (e - 1)), -2 * (sigma * ((e - 1) / h - 1)), none]
        return alpha / alphas[:-1], np.stack(take), sigma * np.sqrt(_exp(2 * h) - 1)
    e, g = _exp(-2 * h), 2 * h
    take = [alpha * (1 - e), alpha * ((1 - e) / -g + 1), alpha * ((1 - e - g) / g**2 - 0.5)]
    return sigma / sigmas[:-1] * _exp(-h), np.stack(take), sigma * np.sqrt(1 - e)


def _earlier(h: Array, steps: int) -> Array:
    """The steps in log-SNR that lie `steps` before; not a number where there are none."""
    return np.append(np.full(min(steps, len(h)), np.nan, np.float32), h[:-steps])


def _exp(values: Array) -> Array:
    """float32, rounded to nearest as PyTorch's mostly is."""
    return np.exp(values.astype(np.float64)).astype(np.float32)
