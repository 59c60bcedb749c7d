"""Choosing how one activation and the GEMMs that read it are quantised, by the error at the GEMMs' outputs.

Candidates (smoothing factors x row factors) are judged on the sampled rows against the exact product. A constant range
is only as good as the data that it was measured on: a label or a timestep that was never seen may lie beyond it, and
then all tokens of an image are clipped. Row factors taken at run time can't be exceeded, so a constant one has to be
better by a margin. Not so behind a norm, which lets no token grow: there a constant range with headroom may cost some
accuracy, since it spares a pass over the tensor, and in an engine a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.methods import Recipe
from calibration.rounding import nearest, weight_steps
from calibration.smoothing import ALPHAS, smoothing_factors
from calibration.stats import ActivationStats, token_weights
from graphs.quantize.quantizers import LARGEST_CODE, SMALLEST_ROW, Activation, Rows

Array = npt.NDArray[Any]
MARGIN_DB: Mapping[Rows, float] = {"none": 1.5, "static": 1.0, "dynamic": 0.0}
"""By how much a kind of row factor must be better than those that nothing can exceed."""
NORMED_MARGIN_DB: Mapping[Rows, float] = {**MARGIN_DB, "none": -4.0}
"""The same behind a norm."""
HEADROOM = 1.5  # of a constant range, for labels and timesteps that were not seen
JUDGED_OUTPUTS = 512  # columns of the weight, evenly spaced, are enough to tell candidates apart
SHARES = np.linspace(0.9, 1.0, 5)  # of the range with headroom: less would clip what was seen


@dataclass(frozen=True, kw_only=True)
class Choice:
    """`factors` [K] divide the activation's channels; `snr_db` is that of the GEMM's output with nearest rounding."""

    activation: Activation
    factors: Array
    snr_db: float

    @property
    def smooths(self) -> bool:
        return bool((self.factors != 1).any())


def choose(stats: ActivationStats, weight: Array, recipe: Recipe, *, foldable: bool, normed: bool = False) -> Choice:
    """The best candidate for an activation and its weights side by side [K, N].

    `foldable` says that channel factors can move into what made the activation; `normed` that this is a norm.
    """
    margin = NORMED_MARGIN_DB if normed else MARGIN_DB
    candidates = _candidates(stats, weight, recipe, foldable=foldable)
    return max(candidates, key=lambda each: each.snr_db - margin[each.activation.rows])


def naive_snr_db(stats: ActivationStats, weight: Array) -> float:
    """What one range for all tokens, up to the largest magnitude, would give: the figure to compare with."""
    step = max(stats.magnitudes.largest, SMALLEST_ROW) / LARGEST_CODE
    return _snr_db(stats.sample.rows, weight, Activation(step=step), stats)


def _candidates(stats: ActivationStats, weight: Array, recipe: Recipe, *, foldable: bool) -> Iterator[Choice]:
    alphas: tuple[float | None, ...] = (None, *ALPHAS) if recipe.smoothing and foldable else (None,)
    for alpha in alphas:
        factors = np.ones(stats.width, np.float32)
        if alpha is not None:
            factors = smoothing_factors(stats.channel_largest, weight, alpha)
        rows, scaled = stats.sample.rows / factors, weight * factors[:, None]
        for activation in _activations(stats, rows, scaled, factors, recipe):
            yield Choice(activation=activation, factors=factors, snr_db=_snr_db(rows, scaled, activation, stats))


def _activations(
    stats: ActivationStats, rows: Array, weight: Array, factors: Array, recipe: Recipe
) -> Iterator[Activation]:
    yield Activation(step=_step(stats, rows, weight, factors, recipe))
    if not recipe.rows:
        return
    yield Activation(step=1 / LARGEST_CODE, rows="dynamic")
    own = stats.own_rows
    if own.any() and not own.all():
        by_row = _row_factors(stats, own)
        even = rows / by_row[stats.sample.tokens, None]
        step = _best_step(even, weight, float(np.abs(even).max(initial=SMALLEST_ROW)))
        yield Activation(step=step, rows="static", row_factors=by_row)


def _step(stats: ActivationStats, rows: Array, weight: Array, factors: Array, recipe: Recipe) -> float:
    """By the recipe's own rule; with smoothing, the histogram is no longer that of the tensor, and the sample decides.

    The largest magnitude stays exact either way: that of each channel over its factor.
    """
    largest = max(float((stats.channel_largest / factors).max(initial=0.0)) * HEADROOM, SMALLEST_ROW)
    if not recipe.smoothing:
        return max(recipe.range_of(stats.magnitudes), SMALLEST_ROW) / LARGEST_CODE
    return _best_step(rows, weight, largest)


def _best_step(rows: Array, weight: Array, largest: float) -> float:
    """The range of least error at the output, where channel j counts by |W_j|^2 and every token alike."""
    importance, alike = np.square(weight).sum(axis=1), token_weights(np.square(rows).sum(axis=1))
    errors = []
    for share in SHARES:
        step = largest * share / LARGEST_CODE
        error = np.clip(np.rint(rows / step), -LARGEST_CODE, LARGEST_CODE) * step - rows
        errors.append(float(alike @ np.square(error) @ importance))
    return float(largest * SHARES[::-1][int(np.argmin(errors[::-1]))] / LARGEST_CODE)


def _row_factors(stats: ActivationStats, own: Array) -> Array:
    """Row factors [N]: each of the rows `own` by its largest magnitude, a patch row by that of all patches."""
    patches = max(stats.patch_magnitudes.largest, SMALLEST_ROW)
    return np.where(own, np.maximum(stats.row_largest, SMALLEST_ROW), patches).astype(np.float32)


def quantised_rows(rows: Array, activation: Activation, tokens: Array) -> Array:
    """What the codes of sampled rows stand for; the graph computes the same."""
    factors = np.ones((len(rows), 1), np.float32)
    if activation.rows == "dynamic":
        factors = np.maximum(np.abs(rows).max(axis=1, keepdims=True), SMALLEST_ROW)
    elif activation.rows == "static":
        assert activation.row_factors is not None
        factors = activation.row_factors[tokens, None]
    codes = np.rint(rows / factors / activation.step)
    codes = np.clip(codes, -LARGEST_CODE - 1, LARGEST_CODE)  # as QuantizeLinear saturates
    return np.asarray(codes * activation.step * factors, np.float32)


def clipped_fraction(stats: ActivationStats, choice: Choice) -> float:
    """Share of the sampled values that lie beyond the range."""
    if choice.activation.rows == "dynamic" or not len(stats.sample.rows):
        return 0.0
    rows = stats.sample.rows / choice.factors
    if choice.activation.row_factors is not None:
        rows = rows / choice.activation.row_factors[stats.sample.tokens, None]
    return float((np.abs(rows) > choice.activation.step * (LARGEST_CODE + 0.5)).mean())


def _snr_db(rows: Array, weight: Array, activation: Activation, stats: ActivationStats) -> float:
    """Of the product with quantised rows and nearest weights against the exact one, over some of the outputs.

    Errors count relative to their token: a later norm takes an outlier's magnitude away, not its relative error.
    """
    judged = weight[:, :: max(1, weight.shape[1] // JUDGED_OUTPUTS)]
    steps = weight_steps(judged)
    exact = rows @ judged
    made = quantised_rows(rows, activation, stats.sample.tokens) @ (nearest(judged, steps) * steps)
    energy = np.square(exact, dtype=np.float64).sum(axis=1)
    noise = np.square(made - exact, dtype=np.float64).sum(axis=1)
    alike = token_weights(energy)
    return float(10 * np.log10(max(float(alike @ energy), 1e-30) / max(float(alike @ noise), 1e-30)))
