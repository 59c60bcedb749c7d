"""Statistics to a plan: channel factors folded into the graph, and every chosen GEMM's scales and codes.

Factors come first, all of them, since folding one changes the weight of another GEMM; weights are quantised as they
are after that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from calibration.activation_schemes import Choice, choose, choose_with, clipped_fraction, naive_snr_db
from calibration.methods import Recipe
from calibration.policy import Selection
from calibration.product_steps import ProductRange, product_range
from calibration.stats import ActivationStats
from calibration.weight_codes import quantised_gemm, side_by_side, stored_weight
from graphs.quantize.channel_division import apply_edits, divide_constant, division
from graphs.quantize.quantizers import QuantizedGemm
from graphs.quantize.schemes import SCHEMES, GemmFormat, Scheme
from graphs.weights.gemms import WeightGemm

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Planned:
    """One GEMM of the plan in one `format`: what is done, and what is known of it. `naive_snr_db` is what per-tensor
    minmax gives."""

    gemm: WeightGemm
    format: GemmFormat
    quantized: QuantizedGemm
    choice: Choice | None
    naive_snr_db: float | None
    clipped: float


@dataclass(frozen=True)
class Chosen:
    """Of one activation: a choice for each format of the scheme, all with the same channel factors, and the SNR of the
    naive alternative in the first."""

    choices: tuple[Choice, ...]
    naive_snr_db: float


def activation_groups(selection: Selection) -> list[list[WeightGemm]]:
    """GEMMs whose activations become codes, those that read the same activation together."""
    ordered = sorted(selection.integer, key=lambda gemm: str(gemm.activation.name))
    return [list(group) for _, group in groupby(ordered, key=lambda gemm: str(gemm.activation.name))]


def fold_choices(
    groups: list[list[WeightGemm]],
    stats: Mapping[str, ActivationStats],
    recipe: Recipe,
    given: Mapping[str, tuple[Choice, ...]],
    progress: Progress,
    *,
    normed: Collection[str] = (),
    scheme: Scheme = SCHEMES["int8"],
) -> dict[str, Chosen]:
    """Chooses for each activation (or takes what is `given`), and folds its channel factors into the graph.

    `normed` are the activations that come from a norm. Returns what was chosen by activation name.
    """
    chosen: dict[str, Chosen] = {}
    for i, group in enumerate(groups):
        name = str(group[0].activation.name)
        weight = np.concatenate([stored_weight(gemm) for gemm in group], axis=1)
        foldable = _foldable(group)
        choices = given.get(name) or _choices(
            stats[name], weight, recipe, scheme, foldable=foldable, normed=name in normed
        )
        naive = naive_snr_db(stats[name], weight, scheme.formats(len(weight))[0]) if name in stats else 0.0
        chosen[name] = Chosen(choices, naive)
        if choices[-1].smooths:
            _fold(group, choices[-1].factors)
        progress(i + 1, len(groups))
    return chosen


def _choices(
    stats: ActivationStats, weight: Array, recipe: Recipe, scheme: Scheme, *, foldable: bool, normed: bool
) -> tuple[Choice, ...]:
    formats = scheme.formats(len(weight))
    first = scheme.smoothed if scheme.smoothed in formats else formats[0]
    finer = {each.name: each != formats[0] for each in formats}
    smoothed = choose(stats, weight, recipe, foldable=foldable, normed=normed, finer=finer[first.name], form=first)
    factors = smoothed.factors
    return tuple(
        smoothed
        if each == first
        else choose_with(stats, weight, recipe, factors, each, normed=normed, finer=finer[each.name])
        for each in formats
    )


def quantised_gemms(
    groups: list[list[WeightGemm]],
    selection: Selection,
    stats: Mapping[str, ActivationStats],
    chosen: Mapping[str, Chosen],
    recipe: Recipe,
    scheme: Scheme = SCHEMES["int8"],
    seen_products: Mapping[tuple[str, str], Array] = MappingProxyType({}),
) -> Iterator[Planned]:
    """One plan after another, a GEMM's in each format of the scheme; codes are not kept here, since those of a large
    model fill memory.

    Products are handed on as codes where `seen_products` knows what whole calls made (see `calibration.seen_products`).
    """
    for group in groups:
        name = str(group[0].activation.name)
        known, seen = chosen[name], stats.get(name)
        forms = list(zip(scheme.formats(group[0].in_features), known.choices, strict=True))
        ranges = [_products(group, seen, choice, form, seen_products.get((name, form.name))) for form, choice in forms]
        start = 0
        for gemm in group:
            channels = slice(start, start := start + gemm.out_features)
            for (form, choice), products in zip(forms, ranges, strict=True):
                own = None if products is None else products.part(channels)
                quantized = quantised_gemm(gemm, seen, recipe, choice, form, own)
                clipped = clipped_fraction(seen, choice) if seen is not None else 0.0
                yield Planned(gemm, form, quantized, choice, known.naive_snr_db, clipped)
    for gemm in selection.conditions:
        quantized = quantised_gemm(gemm, stats.get(str(gemm.activation.name)), recipe, None, scheme.condition)
        yield Planned(gemm, scheme.condition, quantized, None, None, 0.0)


def _products(
    group: list[WeightGemm],
    stats: ActivationStats | None,
    choice: Choice,
    form: GemmFormat,
    seen: Array | None,
) -> ProductRange | None:
    """The range of the codes of a group's products, where they are handed on as such."""
    if seen is None or stats is None or not stats.representative:
        return None
    return product_range(stats, side_by_side(group), choice, form, seen)


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


def graph_activations(selection: Selection) -> dict[str, gs.Tensor]:
    """Every activation that is observed, by name."""
    return {str(gemm.activation.name): gemm.activation for gemm in selection.all}
