"""Whether a graph's weights have the precision that was asked for, and what is said where few of them do.

Typing verifies that every GEMM and convolution outside of the FP32 islands is narrow. What is left is how much lies
inside them: in a tiny model most of the weights, and that is no error of its numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from dsr_export.errors import ExportError
from graphs.foreign.types import foreign_types
from graphs.precisions import PRECISIONS, Precision

FEW, LITTLE = 0.5, 0.01


def least_narrow(precision: Precision) -> float:
    """The least share of narrow weights that is the precision asked for."""
    return PRECISIONS[precision].least_fraction


def require_narrowed(
    precision: Precision, typing: Mapping[str, Any], gemms: Sequence[Mapping[str, Any]] = ()
) -> str | None:
    """Advice where less than half of the weights is narrow, or no GEMM has the format asked for; `typing` is the
    report's section, `gemms` are what it says of each GEMM that was to be quantised.

    Raises ExportError, before an engine is built, where next to none is narrow.
    """
    fraction = typing["half_weight_fraction"]
    if not PRECISIONS[precision].narrow or fraction >= FEW:
        return _only_finer(precision, gemms)
    within_budget = bool(gemms) and all(PRECISIONS[gemm["precision"]].quantized for gemm in gemms)
    why = _by_place(gemms) if within_budget else _by_reason(typing)
    said = f"{_percent(fraction)} of the weight bytes are {precision.upper()}"
    if fraction < least_narrow(precision):
        way_out = "build with --precision fp16" if within_budget else PRECISIONS[precision].way_out
        raise ExportError(f"{precision} was asked for, and {said}; what stays wider: {why}", hint=way_out)
    advice = [f"{said}; what stays wider holds the rest: {why}", _only_finer(precision, gemms)]
    return "; ".join(each for each in advice if each is not None)


def _only_finer(precision: Precision, gemms: Sequence[Mapping[str, Any]]) -> str | None:
    """Finer codes count as narrow weights, too, and would pass for what was asked for."""
    formats = Counter(str(gemm["precision"]) for gemm in gemms)
    if not PRECISIONS[precision].finer or not gemms or precision in formats:
        return None
    given = ", ".join(f"{form.upper()} ({count})" for form, count in formats.most_common())
    return (
        f"the error budget leaves no GEMM in {precision.upper()}: {given}; lower --budget, or build with "
        f"--precision {formats.most_common(1)[0][0]}"
    )


def _by_place(gemms: Sequence[Mapping[str, Any]]) -> str:
    """Where no budget kept any back: what the precision leaves to others by its nature."""
    taken = "the one GEMM" if len(gemms) == 1 else f"all {len(gemms)} GEMMs"
    formats = " or ".join(dict.fromkeys(str(gemm["precision"]).upper() for gemm in gemms))
    left = "embedders, final layers, convolutions, GEMMs of few rows or channels"
    return f"{left} ({taken} inside that can become {formats} did)"


def _by_reason(typing: Mapping[str, Any]) -> str:
    reasons = sorted(typing["fp32_reasons"].items(), key=lambda item: -item[1])
    return ", ".join(f"{reason} ({count})" for reason, count in reasons[:3]) or "the error budget keeps the rest"


def _percent(fraction: float) -> str:
    """Enough digits to tell little from nothing."""
    return f"{fraction:.0%}" if fraction >= LITTLE or not fraction else f"{fraction:.2%}"


def require_types(precision: Precision, model: onnx.ModelProto) -> None:
    """Raises ExportError, before an engine is built, where the typed graph holds what its precision has not.

    Typing leaves the model's own casts as they are: a model that computes in half is no FP32 model.
    """
    found = foreign_types(model, precision)
    if found:
        raise ExportError(
            f"{precision} was asked for, and the model itself holds {'; '.join(found[:3])}",
            hint="convert the model to FP32 first, or build with the precision it computes in",
        )
