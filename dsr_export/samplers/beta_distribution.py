"""Quantiles of a symmetric beta distribution, as scipy's `beta.ppf` has them: the device that samples has no scipy.

By symmetry the lower half is enough, where the power series of the incomplete beta function (DLMF 8.17.7) gains a bit
with every term, and Newton's method doubles the right digits with every round.
"""

from __future__ import annotations

import math

import numpy as np

from dsr_export.samplers.sampler import Array

TERMS, ROUNDS = 64, 12


def beta_quantiles(shares: Array, shape: float) -> Array:
    """Where the distribution with both parameters `shape` (0 to 1) reaches `shares [n]`, from 0 to 1."""
    upper = shares > 0.5
    found = _lower_quantiles(np.where(upper, 1 - shares, shares), shape)
    return np.where(upper, 1 - found, found)


def _lower_quantiles(shares: Array, shape: float) -> Array:
    whole = math.exp(2 * math.lgamma(shape) - math.lgamma(2 * shape))
    x = (shares * shape * whole) ** (1 / shape)  # of the first term alone: a little too large
    for _ in range(ROUNDS):
        with np.errstate(divide="ignore", invalid="ignore"):  # the density at 0 is infinite, and 0 stays
            density = (x * (1 - x)) ** (shape - 1) / whole
            x = np.where(shares > 0, x - (_reached(x, shape) / whole - shares) / density, 0.0)
    return x


def _reached(x: Array, shape: float) -> Array:
    """The incomplete beta function at `x`, up to a half."""
    factor, total = np.ones_like(x), np.zeros_like(x)
    for n in range(TERMS):
        total = total + factor / (shape + n)
        factor = factor * x * (n + 1 - shape) / (n + 1)
    return np.asarray(x**shape * total)
