"""Calibration methods: how a range is chosen, and which of the other measures go with it. `METHODS` has them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from calibration.methods import entropy, minmax, mse, percentile
from calibration.methods.magnitudes import Magnitudes

RangeOf = Callable[[Magnitudes], float]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is done to a GEMM. Each ingredient can be left out, so that its worth can be measured.

    `smoothing` moves channel outliers into the weights; `rows` gives tokens factors of their own, registers constant
    ones and outliers those of their own magnitude; `rounding` rounds weights by what their inputs are, not singly;
    `bias_correction` takes out the mean error; `products` hands on as codes what loses little by it. Without `roles`
    the range is that of all tokens alike.
    """

    name: str
    range_of: RangeOf
    smoothing: bool = False
    rows: bool = False
    rounding: bool = False
    bias_correction: bool = False
    products: bool = False


OUTLIER_AWARE = Recipe(
    name="outlier-aware",
    range_of=mse.range_of,
    smoothing=True,
    rows=True,
    rounding=True,
    bias_correction=True,
    products=True,
)
METHODS: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            OUTLIER_AWARE,
            Recipe(name="minmax", range_of=minmax.range_of),
            Recipe(name="percentile", range_of=percentile.range_of),
            Recipe(name="entropy", range_of=entropy.range_of),
            Recipe(name="mse", range_of=mse.range_of),
        )
    }
)
"""Every method, the default first."""
