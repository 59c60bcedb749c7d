"""Statistics to a plan: channel factors folded into the graph, and every chosen GEMM's scales and codes.

Factors come first, all of them, since folding one changes the weight of another GEMM; weights are quantised as they
are after that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from calibration.activation_schemes import Choice, choose, clipped_fraction, naive_snr_db
from calibration.methods import Recipe
from calibration.policy import Selection
from calibration.rounding import compensated, nearest, weight_steps
from calibration.saturation import held_codes, held_steps
from calibration.stats import ActivationStats
from graphs.quantize.channel_division import apply_edits, divide_constant, division
from graphs.quantize.quantizers import CONDITION_CODE, LARGEST_CODE, QuantizedGemm
from graphs.weights.gemms import WeightGemm
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Planned:
    """One GEMM of the plan: what is done, and what is known of it. `naive_snr_db` is what per-tensor minmax gives."""

    gemm: WeightGemm
    quantized: QuantizedGemm
    choice: Choice | None
    naive_snr_db: float | None
    clipped: float


def activation_groups(selection: Selection) -> list[list[WeightGemm]]:
    """GEMMs to become INT8, those that read the same activation together."""
    ordered = sorted(selection.integer, key=lambda gemm: str(gemm.activation.name))
    return [list(group) for _, group in groupby(ordered, key=lambda gemm: str(gemm.activation.name))]


def fold_choices(
    groups: list[list[WeightGemm]],
    stats: Mapping[str, ActivationStats],
    recipe: Recipe,
    given: Mapping[str, Choice],
    progress: Progress,
    *,
    normed: Collection[str] = (),
) -> dict[str, tuple[Choice, float]]:
    """Chooses for each activation (or takes what is `given`), and folds its channel factors into the graph.

    `normed` are the activations that come from a norm.

    Returns activation name -> its choice and the SNR of the naive alternative.
    """
    chosen: dict[str, tuple[Choice, float]] = {}
    for i, group in enumerate(groups):
        name = str(group[0].activation.name)
        weight = np.concatenate([stored_weight(gemm) for gemm in group], axis=1)
        foldable = _foldable(group)
        choice = given.get(name) or choose(stats[name], weight, recipe, foldable=foldable, normed=name in normed)
        chosen[name] = choice, naive_snr_db(stats[name], weight) if name in stats else 0.0
        if choice.smooths:
            _fold(group, choice.factors)
        progress(i + 1, len(groups))
    return chosen


def quantised_gemms(
    groups: list[list[WeightGemm]],
    selection: Selection,
    stats: Mapping[str, ActivationStats],
    chosen: Mapping[str, tuple[Choice, float]],
    recipe: Recipe,
) -> Iterator[Planned]:
    """One plan after another; codes are not kept here, since those of a large model fill memory."""
    for group in groups:
        choice, naive = chosen[str(group[0].activation.name)]
        for gemm in group:
            seen = stats.get(str(gemm.activation.name))
            quantized = _quantised(gemm, seen, recipe, choice)
            clipped = clipped_fraction(seen, choice) if seen is not None else 0.0
            yield Planned(gemm, quantized, choice, naive, clipped)
    for gemm in selection.conditions:
        quantized = _quantised(gemm, stats.get(str(gemm.activation.name)), recipe, None)
        yield Planned(gemm, quantized, None, None, 0.0)


def stored_weight(gemm: WeightGemm) -> Array:
    """The weight [in, out], read but not kept."""
    values = gemm.node.inputs[1]._values
    weight = np.asarray(values.load() if isinstance(values, StoredValues) else gemm.node.inputs[1].values, np.float32)
    return weight.T if gemm.transposed else weight


def _foldable(group: list[WeightGemm]) -> bool:
    first = group[0]
    probe = np.full(first.in_features, 2, np.float32)
    known = len(first.activation.outputs) == len(group)  # nothing else reads it
    return known and division(first.activation, probe, readers=len(group)) is not None


def _fold(group: list[WeightGemm], factors: Array) -> None:
    edits = division(group[0].activation, factors, readers=len(group))
    assert edits is not None  # `foldable`, and a reused table is checked
    apply_edits(edits)
    for gemm in group:
        inverse = 1 / (factors[None, :] if gemm.transposed else factors[:, None])
        divide_constant(gemm.node, 1, inverse)


def _quantised(gemm: WeightGemm, stats: ActivationStats | None, recipe: Recipe, choice: Choice | None) -> QuantizedGemm:
    weight = stored_weight(gemm)
    factors = np.ones(gemm.in_features, np.float32) if choice is None else choice.factors
    largest = LARGEST_CODE if choice is not None else CONDITION_CODE
    steps = held_steps(weight, weight_steps(weight), largest)
    known = stats is not None and stats.representative
    if recipe.rounding and stats is not None and known:
        codes = compensated(weight, steps, stats.hessian / np.outer(factors, factors))
    else:
        codes = nearest(weight, steps)
    codes = held_codes(codes, largest)
    shift = None
    if recipe.bias_correction and stats is not None and known:
        shift = (stats.mean / factors) @ (weight - codes * steps)
    return QuantizedGemm(
        codes=codes,
        weight_steps=steps,
        activation=None if choice is None else choice.activation,
        bias_shift=None if shift is None else np.asarray(shift, np.float32),
    )


def graph_activations(selection: Selection) -> dict[str, gs.Tensor]:
    """Every activation that is observed, by name."""
    return {str(gemm.activation.name): gemm.activation for gemm in selection.all}
