"""Whether GEMMs that read the same activation hand on their products as codes, and in what steps.

The steps of a product's codes are the weight's own, times one number for all channels of all these GEMMs: what an
engine's integer GEMM takes along (`graphs.quantize.product_codes`). A channel whose products are large for its weights
gets larger steps of its weight instead, so that a few such channels do not make all others coarse. Codes that are
floats need none of that: they have binades for channels of any size.
Codes of products spare half the bytes behind a GEMM, and cost accuracy: taken where they cost little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.activation_schemes import FLOAT_HEADROOM, Choice, quantised_rows, row_factors
from calibration.rounding import nearest
from calibration.saturation import held_steps
from calibration.stats import ActivationStats, token_weights
from calibration.weight_steps import format_steps
from graphs.quantize.formats import FP8, INT8, CodeFormat
from graphs.quantize.quantizers import SMALLEST_ROW
from graphs.quantize.schemes import GemmFormat

Array = npt.NDArray[Any]
HEADROOM = 1.25  # over the largest product that was seen: others are larger now and then
MARGIN_DB, FLOAT_MARGIN_DB = 3.0, 2.0
"""What the codes of products may cost a GEMM: as much as all else that is quantised of it. Less of codes that are
floats, since those GEMMs make most of a model's noise."""
QUANTILES = (1.0, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5)
"""Of the channels: those beyond get larger steps of their weights."""


@dataclass(frozen=True)
class ProductRange:
    """Of the products of all GEMMs that read an activation: the `largest` of each channel [N], with headroom, and the
    `reach` of codes, the largest product in steps of its weight."""

    reach: float
    largest: Array

    def part(self, channels: slice) -> ProductRange:
        """That of some channels, as of one of the GEMMs."""
        return ProductRange(self.reach, self.largest[channels])


def product_range(
    stats: ActivationStats, weight: Array, choice: Choice, form: GemmFormat, seen: Array
) -> ProductRange | None:
    """For the weights side by side [K, N] that read an activation; None where codes of their products would cost more
    than the margin, and where no product but zero was seen.

    `seen` [N] are the largest products of whole calls, as `largest_products` gives them: tokens of one place, such as
    a register, may all be missing in the sample.
    """
    if not has_codes(form):
        return None
    even = _even(stats.sample.rows, stats.sample.tokens, choice)
    sampled = np.abs(even @ weight).max(axis=0, initial=0) * _beyond_sample(stats, choice)
    code, steps = form.weights, _held(weight, form)
    largest = np.asarray(np.maximum(sampled, seen) * (FLOAT_HEADROOM if code.is_float else HEADROOM), np.float32)
    used = largest > 0
    if not used.any():
        return None
    reach = _reach(largest[used] / steps[used], steps[used], even, code)
    finer = even @ _rounded(weight, steps, code)
    coarser = even @ _rounded(weight, larger := raised(steps, largest, reach), code)
    own = product_steps(larger, reach, code)
    plain, coded = _snrs_db(stats, weight, choice, finer, code.nearest(coarser / own, symmetric=False) * own)
    margin = FLOAT_MARGIN_DB if code.is_float else MARGIN_DB
    return ProductRange(reach, largest) if coded >= plain - margin else None


def has_codes(form: GemmFormat) -> bool:
    """Whether products of GEMMs in that format may be codes."""
    return form.weights == form.activations and form.weights in (INT8, FP8)


def largest_products(rows: Array, tokens: Array, weight: Array, choice: Choice) -> Array:
    """Of each channel [N] of a weight [K, N], for rows [n, K] of the given tokens [n], without their row factors."""
    return np.asarray(np.abs(_even(rows, tokens, choice) @ weight).max(axis=0, initial=0), np.float32)


def raised(steps: Array, largest: Array, reach: float) -> Array:
    """The steps of weights [N], larger where products would not fit into codes."""
    return np.asarray(np.maximum(steps, largest / np.float32(reach)), np.float32)


def product_steps(steps: Array, reach: float, code: CodeFormat = INT8) -> Array:
    """The steps of the product's codes [N], for those of its weight."""
    return np.asarray(steps * np.float32(reach / code.largest), np.float32)


def _even(rows: Array, tokens: Array, choice: Choice) -> Array:
    """The rows as their codes stand for them, without row factors."""
    rows = rows / choice.factors
    return np.asarray(quantised_rows(rows, choice.activation, tokens) / row_factors(rows, choice.activation, tokens))


def _beyond_sample(stats: ActivationStats, choice: Choice) -> float:
    """How much larger the largest of all rows was than that of the sample, which may lack the few outliers; 1 where
    rows are divided by what they are."""
    if choice.activation.rows == "dynamic":
        return 1.0
    seen = _largest_even(stats.row_largest[:, None], choice, np.arange(stats.tokens))
    return max(1.0, seen / max(_largest_even(stats.sample.rows, choice, stats.sample.tokens), SMALLEST_ROW))


def _largest_even(rows: Array, choice: Choice, tokens: Array) -> float:
    """Of rows [n, K], without their row factors."""
    return float(np.abs(rows / row_factors(rows, choice.activation, tokens)).max(initial=0))


def _held(weight: Array, form: GemmFormat) -> Array:
    steps = format_steps(weight, form)
    return held_steps(weight, steps, int(INT8.largest)) if form.for_cpus else steps


def _reach(ratios: Array, steps: Array, even: Array, code: CodeFormat) -> float:
    """Of codes of all channels, for their largest products in steps."""
    if code.is_float:
        return max(float(ratios.max()), 1.0)
    return _best_reach(ratios, steps, float(np.square(even).sum(axis=1).mean()))


def _best_reach(ratios: Array, steps: Array, energy: float) -> float:
    """That of least noise, of rounded weights and rounded products together; `ratios` [N] are products in steps, and
    `energy` the squared norm of a row, which an error of every weight is multiplied by."""
    squared = np.square(steps, dtype=np.float64)
    reaches = [max(float(np.quantile(ratios, share)), 1.0) for share in QUANTILES]
    noise = [
        float((squared * np.square(np.maximum(1, ratios / reach))).sum()) * (energy + (reach / INT8.largest) ** 2)
        for reach in reaches
    ]
    return reaches[int(np.argmin(noise))]


def _rounded(weight: Array, steps: Array, code: CodeFormat) -> Array:
    return np.asarray(nearest(weight, steps, code) * steps)


def _snrs_db(stats: ActivationStats, weight: Array, choice: Choice, *products: Array) -> list[float]:
    """Of each of the `products` [n, N] of the sampled rows without their factors, against the exact one."""
    rows = stats.sample.rows / choice.factors
    exact, factors = rows @ weight, row_factors(rows, choice.activation, stats.sample.tokens)
    energy = np.square(exact, dtype=np.float64).sum(axis=1)
    alike = token_weights(energy)
    noise = [np.square(made * factors - exact, dtype=np.float64).sum(axis=1) for made in products]
    return [float(10 * np.log10(max(float(alike @ energy), 1e-30) / max(float(alike @ each), 1e-30))) for each in noise]
