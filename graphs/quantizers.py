"""How a GEMM is quantised, as values, and the nodes that make codes of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.stored import StoredValues

Array = npt.NDArray[Any]
Rows = Literal["none", "static", "dynamic"]
LARGEST_CODE = 127
SMALLEST_ROW = 1e-6  # a token of zeros is divided by this


@dataclass(frozen=True, kw_only=True)
class Activation:
    """How the input of a GEMM becomes INT8: `code = round(x / rows / step)`.

    `row_factors` [tokens] goes with static rows; with dynamic ones each token is divided by its largest magnitude.
    """

    step: float
    rows: Rows = "none"
    row_factors: Array | None = None


@dataclass(frozen=True, kw_only=True)
class QuantizedGemm:
    """`codes` int8 [in, out] times `weight_steps` [out] stand for the weight; `activation` is None for a condition,
    which needs no calibration.

    `bias_shift` [out] is added to the bias: what quantisation changes on average.
    """

    codes: Array | StoredValues
    weight_steps: Array
    activation: Activation | None
    bias_shift: Array | None = None


@dataclass(frozen=True)
class Codes:
    """A quantised tensor. Every GEMM gets a dequantiser of its own: ONNX Runtime fuses none that several read."""

    codes: gs.Variable
    step: gs.Constant
    zero: gs.Constant

    def dequantized(self, build: NodeBuilder) -> gs.Variable:
        return build.op("DequantizeLinear", [self.codes, self.step, self.zero], "values")


def evened(build: NodeBuilder, x: gs.Tensor) -> tuple[gs.Variable, gs.Variable]:
    """`x` over each row's largest magnitude, and those magnitudes [.., 1]."""
    largest = build.op("ReduceMax", [build.op("Abs", [x], "size"), build.ints("last", -1)], "largest", keepdims=1)
    rows = build.op("Max", [largest, build.floats("smallest", SMALLEST_ROW)], "rows")
    return build.op("Mul", [x, build.op("Reciprocal", [rows], "rows_inverse")], "even"), rows


def codes_of(build: NodeBuilder, source: gs.Tensor, value: float) -> Codes:
    step, zero = build.floats("step", value), build.constant("zero", np.array(0, np.int8))
    codes = build.op("QuantizeLinear", [source, step, zero], "codes")
    codes.dtype = np.dtype(np.int8)
    return Codes(codes, step, zero)
