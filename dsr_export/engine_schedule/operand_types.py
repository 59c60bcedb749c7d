"""What a GEMM is asked to compute in, and what it does: in a plan's words, and in those of a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx

from graphs.quantize.formats import FORMATS, FP4, FP8

_OWN = {onnx.TensorProto.FLOAT: "float32", FP8.type: "float8e4m3"}
"""Where a plan's word is not ONNX's, in small letters."""
_SAID = {"float8e4m3": FP8.name, "float4e2m1": FP4.name}
"""Formats of codes that have another name than their type."""


def plan_type(kind: int) -> str:
    """A plan's word for ONNX's element type."""
    return _OWN.get(kind) or str(onnx.TensorProto.DataType.Name(kind)).lower()


INTEGERS = frozenset({"int8", "uint8", "int4", "uint4"})
"""Products of both operands in one of these are integer ones."""
CODES = INTEGERS | frozenset(map(plan_type, FORMATS))
"""Types that stand for other numbers, by a scale."""


def operand_types(kinds: Iterable[str]) -> str:
    """Of a product: `int8`, or `float16 x int8` where they differ."""
    return " x ".join(dict.fromkeys(kinds))


def chosen_types(gemm: Mapping[str, Any]) -> str | None:
    """What the graph asks one of a report's `gemms` to compute in, None for floats.

    Reports of earlier versions only tell that codes were chosen, and those were INT8's.
    """
    if "chosen" in gemm:
        return None if gemm["chosen"] is None else str(gemm["chosen"])
    return "int8" if gemm["chosen_integer"] else None


def computes_so(gemm: Mapping[str, Any], chosen: str) -> bool:
    """Whether it does; an engine may swap the operands."""
    return set(str(gemm["computes"]).split(" x ")) == set(chosen.split(" x "))


def format_words(chosen: str) -> str:
    """`INT8`, `FP8`; `INT4 weights` where the others are floats."""
    kinds = chosen.split(" x ")
    codes = [kind for kind in kinds if kind in CODES]
    said = " x ".join(_SAID.get(kind, kind).upper() for kind in codes or kinds)
    return f"{said} weights" if 0 < len(codes) < len(kinds) else said
