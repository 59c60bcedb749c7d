"""Sequences of noise levels (sigmas) from the largest to the smallest, and shifts of them. In float64.

Sources: Karras et al. 2206.00364 (rho 7); Lu et al. 2206.00927 (even steps of log-SNR); "Beta sampling is all you
need" 2407.12173; the shift of flow matching, SD3 2403.03206.
"""

from __future__ import annotations

import math

import numpy as np

from dsr_export.errors import ExportError
from dsr_export.samplers.beta_distribution import beta_quantiles
from dsr_export.samplers.sampler import Array

RHO = 7.0
MOST_MU = 80  # exp of more is no float32
BETA_SHAPE = 0.6  # both parameters of the beta distribution


def karras(largest: float, smallest: float, steps: int) -> Array:
    """Even steps of the seventh root, [steps]. ExportError where one is negative."""
    if not (largest >= 0 and smallest >= 0):
        raise ExportError(f"Karras sigmas from {largest} to {smallest}: neither may be below 0")
    ramp = np.linspace(0, 1, steps)
    first, last = largest ** (1 / RHO), smallest ** (1 / RHO)
    return np.asarray((first + ramp * (last - first)) ** RHO)


def exponential(largest: float, smallest: float, steps: int) -> Array:
    """Even steps of the logarithm, [steps]. ExportError where one is not positive."""
    if not (largest > 0 and smallest > 0):
        raise ExportError(f"exponential sigmas from {largest} to {smallest}: both must be above 0")
    return np.asarray(np.exp(np.linspace(math.log(largest), math.log(smallest), steps)))


def even_logarithms(largest: float, smallest: float, steps: int) -> Array:
    """Even steps between two logarithms, [steps] sigmas. They are rounded otherwise than those of `exponential`."""
    ramp = np.linspace(0, 1, steps)
    return np.asarray(np.exp(largest + ramp * (smallest - largest)))


def beta(largest: float, smallest: float, steps: int) -> Array:
    """Quantiles of a beta distribution, dense at both ends, [steps]."""
    return np.asarray(smallest + beta_quantiles(1 - np.linspace(0, 1, steps), BETA_SHAPE) * (largest - smallest))


def shifted(sigmas: Array, shift: float) -> Array:
    """Moved towards noise by a `shift` above 1: `shift s / (1 + (shift - 1) s)`."""
    return np.asarray(shift * sigmas / (1 + (shift - 1) * sigmas))


def shifted_by_odds(sigmas: Array, weight: float) -> Array:
    """The same shift, as `weight / (weight + (1 / s - 1))`: this form rounds otherwise, and it allows no 0."""
    return np.asarray(weight / (weight + (1 / sigmas - 1)))


def stretched(sigmas: Array, last: float) -> Array:
    """Stretched about 1 so that the last one is `last`."""
    rest = 1 - sigmas
    return np.asarray(1 - rest / (rest[-1] / (1 - last)))


Size = tuple[int | None, float | None]
"""Tokens of a picture, and the shift of its schedule; None where a configuration does not say it."""


def dynamic_mu(image_tokens: int | None, *, base: Size, most: Size) -> float:
    """The shift of a picture of `image_tokens`, on the line through `base` and `most`. ExportError without them."""
    if image_tokens is None or base[0] is None or base[1] is None or most[0] is None or most[1] is None:
        raise ExportError(
            "the schedule follows the picture's size (use_dynamic_shifting), and nothing says how",
            hint="give mu, or the picture's tokens, with base_shift, max_shift, base_image_seq_len and "
            "max_image_seq_len in scheduler_config.json",
        )
    if base[0] == most[0]:
        raise ExportError("scheduler_config.json: base_image_seq_len and max_image_seq_len are the same")
    slope = (most[1] - base[1]) / (most[0] - base[0])
    return checked_mu(image_tokens * slope + (base[1] - slope * base[0]))


def checked_mu(mu: float) -> float:
    """`mu`, or ExportError where it is no exponent."""
    if not -MOST_MU < mu < MOST_MU:
        raise ExportError(f"a shift mu of {mu}", hint=f"give one between {-MOST_MU} and {MOST_MU}; models use 0 to 3")
    return mu
