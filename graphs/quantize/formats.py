"""Formats of codes, as data: which numbers each holds, and the nearest of them to a value.

| format | numbers | source |
|---|---|---|
| INT8, INT4 | integers, symmetric for weights | ONNX |
| FP8 | E4M3FN: 4 bits of exponent, 3 of mantissa, no infinities | arXiv 2209.05433 |
| FP4 | E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives | OCP Microscaling Formats v1.0 |

What lies halfway goes to the even code, and what lies beyond the largest number becomes it, as QuantizeLinear has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class CodeFormat:
    """Numbers up to `largest` of either sign; `lowest` is the least of all, which integers have one more of. Weights
    are `symmetric` where that one is left to activations.

    `type` is the ONNX element type. `bits` of mantissa stand behind the point, and `least` is the exponent of the
    smallest normal number; integers have no `bits`. `opset` is ONNX's first that has it in a graph.
    """

    name: str
    type: int
    largest: float
    lowest: float
    symmetric: bool = True
    bits: int | None = None
    least: int = 0
    opset: int = 20

    @property
    def is_float(self) -> bool:
        return self.bits is not None

    @property
    def is_code(self) -> bool:
        """Whether it is narrower than the floats around it; else values stay what they are."""
        return self != FLOATS

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of arrays of codes: a byte each, whatever a file packs them into."""
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.type))

    def nearest(self, values: Array, *, symmetric: bool | None = None) -> Array:
        """The numbers of the format that are nearest to `values`, as float32 of the same shape; NaN stays.

        Without `symmetric` as weights are; activations never are, since QuantizeLinear uses the lowest integer, too.
        """
        symmetric = self.symmetric if symmetric is None else symmetric
        values = np.asarray(values, np.float32)
        if not self.is_code:
            return values
        held = np.clip(values, -self.largest if symmetric else self.lowest, self.largest)
        if self.bits is None:
            return np.asarray(np.rint(held), np.float32)
        exponent = np.maximum(np.frexp(held)[1] - 1, self.least) - self.bits
        return np.asarray(np.ldexp(np.rint(np.ldexp(held, -exponent)), exponent), np.float32)

    def codes(self, numbers: Array) -> Array:
        """Numbers of the format, as `nearest` gives them, in its own type."""
        return np.asarray(numbers).astype(self.dtype)


INT8 = CodeFormat(name="int8", type=onnx.TensorProto.INT8, largest=127, lowest=-128)
FP8 = CodeFormat(name="fp8", type=onnx.TensorProto.FLOAT8E4M3FN, largest=448, lowest=-448, bits=3, least=-6)
INT4 = CodeFormat(name="int4", type=onnx.TensorProto.INT4, largest=7, lowest=-8, symmetric=False, opset=21)
FP4 = CodeFormat(name="fp4", type=onnx.TensorProto.FLOAT4E2M1, largest=6, lowest=-6, bits=1, least=0, opset=23)
FLOATS = CodeFormat(name="floats", type=onnx.TensorProto.FLOAT, largest=1, lowest=-1, bits=23, least=-126)
"""Of activations that stay what they are, in the type around them."""
FORMATS: Mapping[int, CodeFormat] = {each.type: each for each in (INT8, FP8, INT4, FP4)}
"""By ONNX's element type."""


def format_of(codes: Any) -> CodeFormat:
    """Of an array of codes, or of codes that are stored."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(codes.dtype))
    return FORMATS[kind]
