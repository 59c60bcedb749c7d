"""One output of a bundle on rows it has not seen, against PyTorch's: the same numbers, as far as a precision can."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dsr_export.parity.metrics import compare
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.subjects.other_rounding import OtherRounding
from graphs.precisions import Precision
from tests.generated.half_witness import rounded
from tests.generated.random_modules import call

Array = npt.NDArray[Any]
STEP = 2.0**-23
DRAWN_DB, EDGE_DB = 6.0, 20.0  # below the tolerance: on other rows like the example's, and on rows unlike it
NOTHING = 1e-3  # an error that no low precision is blamed for


@dataclass(frozen=True)
class Rows:
    """Output `name` of `module` on `inputs`, rows of the kind `form`: PyTorch makes `truth`."""

    form: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    name: str
    truth: Array


def difference(rows: Rows, got: Array) -> str | None:
    """FP32: NaN and infinity in the same places, and as near as the module's own conditioning lets FP32 be."""
    truth = rows.truth
    if truth.dtype.kind != "f" or truth.shape != got.shape:
        return _unequal(truth, got)
    spread = _spread(rows)
    strange = _strange(truth, got, np.isfinite(spread) | ~np.isfinite(truth))
    if strange is not None:
        return strange
    judged = np.isfinite(truth) & np.isfinite(got) & np.isfinite(spread)
    if not judged.any():
        return None
    span = float(np.ptp(truth[judged]))
    excess = np.abs(got - truth)[judged] - (1e-4 * max(1.0, span) + 20 * spread[judged])
    worst = int(np.argmax(excess))
    return None if excess[worst] <= 0 else f"{got[judged][worst]} where PyTorch makes {truth[judged][worst]}"


def roughly(rows: Rows, got: Array, precision: Precision) -> str | None:
    """Low precisions: rows like the example's within the tolerance, others finite where PyTorch is and not far off.

    Huge ones are beyond the range that the build has seen, and no low precision is better than its plain arithmetic.
    """
    truth = rows.truth
    if rows.form == "huge":
        return None
    if truth.dtype.kind != "f" or truth.shape != got.shape:
        return _unequal(truth, got)
    strange = _strange(truth, got, np.ones(truth.shape, bool))
    if strange is not None or not np.isfinite(truth).all() or precision == "int8":
        return strange
    least = TOLERANCES[precision].snr_db - (DRAWN_DB if rows.form == "drawn" else EDGE_DB)
    found = compare(truth, got)
    if (found.snr_db or 0.0) >= least or (found.max_abs or 0.0) <= NOTHING:
        return None
    low = torch.float16 if precision == "fp16" else torch.bfloat16
    plain = compare(truth, rounded(rows.module, rows.inputs, low)[rows.name].numpy()).snr_db
    return (
        None if plain is None or plain < least + 10 else f"{found.snr_db:.1f} dB, and plain arithmetic {plain:.1f} dB"
    )


def _unequal(truth: Array, got: Array) -> str | None:
    return None if np.array_equal(truth, got) else f"{got} {got.shape} where PyTorch makes {truth} {truth.shape}"


def _strange(truth: Array, got: Array, sure: Array) -> str | None:
    for word, of in (("NaN", np.isnan), ("inf", np.isposinf), ("-inf", np.isneginf)):
        if ((of(truth) != of(got)) & sure).any():
            return f"{word} {np.count_nonzero(of(got))} times where PyTorch has it {np.count_nonzero(of(truth))} times"
    return None


def _spread(rows: Rows) -> Array:
    """How far a step of rounding moves each number: of inputs and weights, and of all that is made of them.

    NaN where it changes the kind of number.
    """
    generator = torch.Generator().manual_seed(0)

    def moved(value: Tensor) -> Tensor:
        return (
            value * (1 + STEP * torch.randn(value.shape, generator=generator)) if value.is_floating_point() else value
        )

    with OtherRounding():
        made = call(rows.module, rows.inputs)[rows.name].numpy()
    with np.errstate(invalid="ignore"):
        worst = np.abs(made - rows.truth)
    for _ in range(2):
        other = copy.deepcopy(rows.module)
        for weight in [*other.parameters(), *other.buffers()]:
            weight.data = moved(weight.data)
        made = call(other, {key: moved(value) for key, value in rows.inputs.items()})[rows.name].numpy()
        with np.errstate(invalid="ignore"):
            worst = np.maximum(worst, np.abs(made - rows.truth))
    return np.asarray(worst)
