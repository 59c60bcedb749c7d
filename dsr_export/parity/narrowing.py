"""Whether a graph's weights have the precision that was asked for, and what is said where few of them do.

Typing verifies that every GEMM and convolution outside of the FP32 islands is narrow. What is left is how much lies
inside them: in a tiny model most of the weights, and that is no error of its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from dsr_export.errors import ExportError
from graphs.foreign.types import foreign_types
from graphs.precisions import PRECISIONS, Precision

FEW = 0.5


def least_narrow(precision: Precision) -> float:
    """The least share of narrow weights that is the precision asked for."""
    return PRECISIONS[precision].least_fraction


def require_narrowed(precision: Precision, typing: Mapping[str, Any]) -> str | None:
    """Advice where less than half of the weights is narrow; `typing` is the report's section.

    Raises ExportError, before an engine is built, where next to none is.
    """
    fraction, name = typing["half_weight_fraction"], precision.upper()
    if not PRECISIONS[precision].narrow or fraction >= FEW:
        return None
    reasons = sorted(typing["fp32_reasons"].items(), key=lambda item: -item[1])
    why = ", ".join(f"{reason} ({count})" for reason, count in reasons[:3]) or "the error budget keeps the rest"
    said = f"{fraction:.0%} of the weight bytes are {name}"
    if fraction < least_narrow(precision):
        reason = f"{precision} was asked for, and {said}; what stays wider: {why}"
        raise ExportError(reason, hint=PRECISIONS[precision].way_out)
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
