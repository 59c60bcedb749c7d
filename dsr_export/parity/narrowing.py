"""Whether a graph's weights have the precision that was asked for, and what is said where few of them do.

Typing verifies that every GEMM and convolution outside of the FP32 islands is narrow. What is left is how much lies
inside them: in a tiny model most of the weights, and that is no error of its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from dsr_export.errors import ExportError
from graphs.artifacts import Precision
from graphs.foreign.types import foreign_types

LEAST_FRACTION = 0.01
"""Of the GEMM and convolution weight bytes of an FP16 or BF16 graph, or the weights of an INT8 one. Below, the
precision asked for is not the precision delivered: an engine builder that ignores it gives 0."""
FEW = 0.5


def least_narrow(precision: Precision) -> float:
    """The least share of narrow weights that is the precision asked for."""
    return LEAST_FRACTION if precision != "fp32" else 0.0


def require_narrowed(precision: Precision, typing: Mapping[str, Any]) -> str | None:
    """Advice where less than half of the weights is narrow; `typing` is the report's section.

    Raises ExportError, before an engine is built, where next to none is.
    """
    fraction, name = typing["half_weight_fraction"], precision.upper()
    if precision == "fp32" or fraction >= FEW:
        return None
    reasons = sorted(typing["fp32_reasons"].items(), key=lambda item: -item[1])
    why = ", ".join(f"{reason} ({count})" for reason, count in reasons[:3]) or "the error budget keeps the rest"
    said = f"{fraction:.0%} of the weight bytes are {name}"
    if fraction < least_narrow(precision):
        hint = "build with --precision fp32" if precision != "int8" else "lower --int8-budget, or build with fp16"
        raise ExportError(f"{precision} was asked for, and {said}; what stays wider: {why}", hint=hint)
    return f"{said}; what stays wider holds the rest: {why}"


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
