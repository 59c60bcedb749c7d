"""Choosing how one activation and the GEMMs that read it are quantised, by the error at the GEMMs' outputs.

Candidates (smoothing factors x row factors) are judged on the sampled rows against the exact product. A constant range
is only as good as the data that it was measured on: a label or a timestep that was never seen may lie beyond it, and
then all tokens of an image are clipped. Row factors taken at run time can't be exceeded, so a constant one has to be
better by a margin. Not so behind a norm, which lets no token grow: there a constant range with headroom may cost some
accuracy, since it spares a pass over the tensor, and in an engine a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.low_rank import branch_of
from calibration.methods import Recipe
from calibration.rounding import nearest
from calibration.smoothing import ALPHAS, smoothing_factors
from calibration.stats import ActivationStats, token_weights
from calibration.weight_steps import by_input, format_steps, power_of_two
from graphs.quantize.formats import FP4, FP8, CodeFormat
from graphs.quantize.four_bit import BLOCK
from graphs.quantize.quantizers import SMALLEST_ROW, Activation, Rows
from graphs.quantize.schemes import INTEGER, GemmFormat

Array = npt.NDArray[Any]
MARGIN_DB: Mapping[Rows, float] = {"none": 1.5, "static": 1.0, "dynamic": 0.0}
"""By how much a kind of row factor must be better than those that nothing can exceed."""
NORMED_MARGIN_DB: Mapping[Rows, float] = {**MARGIN_DB, "none": -4.0}
"""The same behind a norm."""
FINER_NORMED_MARGIN_DB: Mapping[Rows, float] = {**MARGIN_DB, "none": -8.0}
"""The same of a format that others may go up to: INT8 in a constant range is still far better than what it is taken
for, and costs no kernel."""
FLOAT_MARGIN_DB: Mapping[Rows, float] = {"none": -1.0, "static": 0.0, "dynamic": 0.0}
"""The same of codes that are floats: their headroom costs nothing, and row factors cost a pass over the tensor."""
HEADROOM = 1.5  # of a constant range, for labels and timesteps that were not seen
FLOAT_HEADROOM = 4.0  # two of FP8's 15 binades
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


def choose(
    stats: ActivationStats,
    weight: Array,
    recipe: Recipe,
    *,
    foldable: bool,
    normed: bool = False,
    finer: bool = False,
    form: GemmFormat = INTEGER,
) -> Choice:
    """The best candidate for an activation and its weights side by side [K, N], in the formats of `form`.

    `foldable` says that channel factors can move into what made the activation; `normed` that this is a norm; `finer`
    that a cheaper format comes before this one.
    """
    alphas: tuple[float | None, ...] = (None, *ALPHAS) if recipe.smoothing and foldable else (None,)
    factors = (_factors(stats, weight, alpha) for alpha in alphas)
    found = (each for some in factors for each in _candidates(stats, weight, recipe, some, form))
    return _best(found, form, normed=normed, finer=finer)


def choose_with(
    stats: ActivationStats,
    weight: Array,
    recipe: Recipe,
    factors: Array,
    form: GemmFormat,
    *,
    normed: bool,
    finer: bool,
) -> Choice:
    """The same where the channel factors [K] are those that another format was given."""
    return _best(_candidates(stats, weight, recipe, factors, form), form, normed=normed, finer=finer)


def _best(candidates: Iterable[Choice], form: GemmFormat, *, normed: bool, finer: bool) -> Choice:
    behind_norms = FINER_NORMED_MARGIN_DB if finer else NORMED_MARGIN_DB
    margin = FLOAT_MARGIN_DB if form.activations.is_float else behind_norms if normed else MARGIN_DB
    return max(candidates, key=lambda each: each.snr_db - margin[each.activation.rows])


def naive_snr_db(stats: ActivationStats, weight: Array, form: GemmFormat = INTEGER) -> float:
    """What one range for all tokens, up to the largest magnitude, would give: the figure to compare with."""
    step = max(stats.magnitudes.largest, SMALLEST_ROW) / form.activations.largest
    if form.activations == FP4:
        step = _unit(stats, np.ones(stats.width, np.float32))
    plain = replace(form, rank=0)
    return _snr_db(stats.sample.rows, weight, Activation(step=step, format=form.activations), plain, stats)


def _factors(stats: ActivationStats, weight: Array, alpha: float | None) -> Array:
    return (
        np.ones(stats.width, np.float32) if alpha is None else smoothing_factors(stats.channel_largest, weight, alpha)
    )


def _candidates(
    stats: ActivationStats, weight: Array, recipe: Recipe, factors: Array, form: GemmFormat
) -> Iterator[Choice]:
    rows, scaled = stats.sample.rows / factors, weight * factors[:, None]
    for activation in _activations(stats, rows, scaled, factors, recipe, form.activations):
        yield Choice(activation=activation, factors=factors, snr_db=_snr_db(rows, scaled, activation, form, stats))


def _activations(
    stats: ActivationStats, rows: Array, weight: Array, factors: Array, recipe: Recipe, form: CodeFormat
) -> Iterator[Activation]:
    if not form.is_code:
        yield Activation(step=1.0, format=form)
        return
    if form == FP4:
        yield Activation(step=_unit(stats, factors), format=form)
        return
    yield Activation(step=_step(stats, rows, weight, factors, recipe, form), format=form)
    if not recipe.rows:
        return
    yield Activation(step=1 / form.largest, rows="dynamic", format=form)
    own = stats.own_rows
    if own.any() and not own.all():
        by_row = _row_factors(stats, own)
        even = rows / by_row[stats.sample.tokens, None]
        step = _best_step(even, weight, float(np.abs(even).max(initial=SMALLEST_ROW)), form)
        yield Activation(step=step, rows="static", row_factors=by_row, format=form)


def _step(
    stats: ActivationStats, rows: Array, weight: Array, factors: Array, recipe: Recipe, form: CodeFormat
) -> float:
    """By the recipe's own rule; with smoothing, the histogram is no longer that of the tensor, and the sample decides.

    The largest magnitude stays exact either way: that of each channel over its factor.
    """
    headroom = FLOAT_HEADROOM if form.is_float else HEADROOM
    largest = max(float((stats.channel_largest / factors).max(initial=0.0)) * headroom, SMALLEST_ROW)
    if not recipe.smoothing:
        return max(recipe.range_of(stats.magnitudes), SMALLEST_ROW) / form.largest
    return _best_step(rows, weight, largest, form)


def _best_step(rows: Array, weight: Array, largest: float, form: CodeFormat) -> float:
    """The range of least error at the output, where channel j counts by |W_j|^2 and every token alike."""
    importance, alike = np.square(weight).sum(axis=1), token_weights(np.square(rows).sum(axis=1))
    errors = []
    for share in SHARES:
        step = largest * share / form.largest
        error = form.nearest(rows / step) * step - rows
        errors.append(float(alike @ np.square(error) @ importance))
    return float(largest * SHARES[::-1][int(np.argmin(errors[::-1]))] / form.largest)


def _row_factors(stats: ActivationStats, own: Array) -> Array:
    """Row factors [N]: each of the rows `own` by its largest magnitude, a patch row by that of all patches."""
    patches = max(stats.patch_magnitudes.largest, SMALLEST_ROW)
    return np.where(own, np.maximum(stats.row_largest, SMALLEST_ROW), patches).astype(np.float32)


def quantised_rows(rows: Array, activation: Activation, tokens: Array) -> Array:
    """What the codes of sampled rows stand for; the graph computes the same."""
    if activation.format == FP4:
        return four_bit_rows(rows, activation.step)
    factors = row_factors(rows, activation, tokens)
    codes = activation.format.nearest(rows / factors / activation.step, symmetric=False)
    return np.asarray(codes * activation.step * factors, np.float32)


def row_factors(rows: Array, activation: Activation, tokens: Array) -> Array:
    """[n, 1]: what each of the rows [n, K] is divided by before its codes are made."""
    if activation.rows == "dynamic":
        return np.asarray(np.maximum(np.abs(rows).max(axis=1, keepdims=True), SMALLEST_ROW))
    if activation.rows == "static":
        assert activation.row_factors is not None
        return np.asarray(activation.row_factors[tokens, None])
    return np.ones((len(rows), 1), np.float32)


def four_bit_rows(rows: Array, unit: float) -> Array:
    """What the codes of rows [n, K] stand for by `TRT_FP4DynamicQuantize`: see `graphs.quantize.four_bit`."""
    blocks = rows.reshape(len(rows), -1, BLOCK)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    steps = FP8.nearest(largest / np.float32(FP4.largest) / np.float32(unit)) * np.float32(unit)
    return np.asarray(FP4.nearest(blocks / np.where(steps == 0, 1, steps)) * steps, np.float32).reshape(rows.shape)


def _unit(stats: ActivationStats, factors: Array) -> float:
    """What the scales of an activation's blocks are multiples of: a power of two, with headroom for what was not
    seen."""
    largest = float((stats.channel_largest / factors).max(initial=0.0)) * FLOAT_HEADROOM / FP4.largest
    return power_of_two(largest / FP8.largest)


def clipped_fraction(stats: ActivationStats, choice: Choice) -> float:
    """Share of the sampled values that lie beyond the range."""
    form = choice.activation.format
    if choice.activation.rows == "dynamic" or form == FP4 or not form.is_code or not len(stats.sample.rows):
        return 0.0
    rows = stats.sample.rows / choice.factors
    if choice.activation.row_factors is not None:
        rows = rows / choice.activation.row_factors[stats.sample.tokens, None]
    beyond = form.largest + (0.0 if form.is_float else 0.5)
    return float((np.abs(rows) > choice.activation.step * beyond).mean())


def _snr_db(rows: Array, weight: Array, activation: Activation, form: GemmFormat, stats: ActivationStats) -> float:
    """Of the product with quantised rows and nearest weights against the exact one, over some of the outputs.

    Errors count relative to their token: a later norm takes an outlier's magnitude away, not its relative error.
    """
    judged = weight[:, :: max(1, weight.shape[1] // JUDGED_OUTPUTS)]
    exact = rows @ judged
    branch = branch_of(judged, form.rank, np.square(rows).mean(axis=0)) if form.rank else None
    rest = judged if branch is None else judged - branch[0] @ branch[1]
    steps = by_input(format_steps(rest, form), len(rest))
    made = quantised_rows(rows, activation, stats.sample.tokens) @ (nearest(rest, steps, form.weights) * steps)
    made = made if branch is None else made + rows @ branch[0] @ branch[1]
    energy = np.square(exact, dtype=np.float64).sum(axis=1)
    noise = np.square(made - exact, dtype=np.float64).sum(axis=1)
    alike = token_weights(energy)
    return float(10 * np.log10(max(float(alike @ energy), 1e-30) / max(float(alike @ noise), 1e-30)))
