"""One GEMM's weight in codes: steps, rounding, and what is left of the error on average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.activation_schemes import Choice
from calibration.low_rank import branch_of
from calibration.methods import Recipe
from calibration.product_steps import ProductRange, product_steps, raised
from calibration.rounding import compensated, nearest
from calibration.saturation import held_codes, held_steps
from calibration.stats import ActivationStats
from calibration.weight_steps import block_unit, by_input, format_steps
from graphs.quantize.quantizers import CONDITION_CODE, QuantizedGemm
from graphs.quantize.schemes import GemmFormat
from graphs.weights.gemms import WeightGemm
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]


def stored_weight(gemm: WeightGemm) -> Array:
    """The weight [in, out], read but not kept."""
    values = gemm.node.inputs[1]._values
    weight = np.asarray(values.load() if isinstance(values, StoredValues) else gemm.node.inputs[1].values, np.float32)
    return weight.T if gemm.transposed else weight


def side_by_side(gemms: Sequence[WeightGemm]) -> Array:
    """The weights of several GEMMs as one [K, N]."""
    return np.concatenate([stored_weight(gemm) for gemm in gemms], axis=1)


def quantised_gemm(
    gemm: WeightGemm,
    stats: ActivationStats | None,
    recipe: Recipe,
    choice: Choice | None,
    wanted: GemmFormat,
    products: ProductRange | None = None,
) -> QuantizedGemm:
    """The codes of its weight as it is now. `choice` is None for a condition; `stats` where nothing was measured.

    `products` is the range of its product's codes, where it is handed on in such (see `calibration.product_steps`).
    """
    weight, form = stored_weight(gemm), wanted.weights
    factors = np.ones(gemm.in_features, np.float32) if choice is None else choice.factors
    seen = stats if stats is not None and stats.representative else None
    hessian = seen.hessian / np.outer(factors, factors) if recipe.rounding and seen is not None else None
    branch = _branch(weight, seen, hessian, wanted)
    weight = weight if branch is None else weight - branch[0] @ branch[1]
    largest = int(form.largest if choice is not None else CONDITION_CODE)
    steps = _steps(weight, hessian, wanted, largest)
    if products is not None:
        steps = raised(steps, products.largest, products.reach)
    codes = _codes(weight, steps, hessian, wanted, largest)
    shift = None
    if recipe.bias_correction and seen is not None:
        shift = np.asarray((seen.mean / factors) @ (weight - codes * by_input(steps, len(weight))), np.float32)
    return QuantizedGemm(
        codes=form.codes(codes),
        weight_steps=steps,
        activation=None if choice is None else choice.activation,
        bias_shift=shift,
        unit=block_unit(weight, wanted),
        branch=branch,
        product_steps=None if products is None else product_steps(steps, products.reach, form),
    )


def _branch(
    weight: Array, seen: ActivationStats | None, hessian: Array | None, wanted: GemmFormat
) -> tuple[Array, Array] | None:
    """What floats take of the weight; by its rows alone where nothing was seen of their inputs."""
    if not wanted.rank:
        return None
    alike = np.ones(len(weight), np.float32)
    energy = alike if hessian is None or seen is None else np.diagonal(hessian) / seen.count
    return branch_of(weight, wanted.rank, energy)


def _steps(weight: Array, hessian: Array | None, wanted: GemmFormat, largest: int) -> Array:
    """Those of the codes; `largest` is the activation's largest code."""
    steps = format_steps(weight, wanted, None if hessian is None else np.diagonal(hessian))
    return held_steps(weight, steps, largest) if wanted.for_cpus else steps


def _codes(weight: Array, steps: Array, hessian: Array | None, wanted: GemmFormat, largest: int) -> Array:
    """Numbers of the format [K, N]."""
    each, form = by_input(steps, len(weight)), wanted.weights
    codes = nearest(weight, each, form) if hessian is None else compensated(weight, each, hessian, form)
    return held_codes(codes, largest) if wanted.for_cpus else codes
