"""How a GEMM is quantised, as values, and the nodes that make codes of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.precisions import HALF
from graphs.quantize.formats import FP4, INT8, CodeFormat
from graphs.quantize.four_bit import four_bit_values
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
Rows = Literal["none", "static", "dynamic"]
CONDITION_CODE = 63  # of a condition, which has two rows of codes: CPUs without VNNI add products in 16 bits
SMALLEST_ROW = 1e-6  # a token of zeros is divided by this


@dataclass(frozen=True, kw_only=True)
class Activation:
    """How the input of a GEMM becomes codes of a format: the nearest to `x / rows / step`.

    `row_factors` [tokens] goes with static rows; with dynamic ones each token is divided by its largest magnitude.
    """

    step: float
    rows: Rows = "none"
    row_factors: Array | None = None
    format: CodeFormat = INT8


@dataclass(frozen=True, kw_only=True)
class QuantizedGemm:
    """`codes` [in, out], whose type tells their format, times `weight_steps` [out] stand for the weight.

    `activation` is None for a condition, which needs no calibration. Where steps are of blocks ([in / block, out]) and
    have a format of their own, they are multiples of `unit`. `branch` is a pair [in, rank] and [rank, out] in floats
    whose product is added to what the codes stand for.
    `bias_shift` [out] is added to the bias: what quantisation changes on average. `product_steps` [out] are those of
    the codes that the product itself is handed on in, before rows and bias; None where it stays floats.
    """

    codes: Array | StoredValues
    weight_steps: Array
    activation: Activation | None
    bias_shift: Array | None = None
    unit: float = 1.0
    branch: tuple[Array, Array] | None = None
    product_steps: Array | None = None


@dataclass
class Quantizer:
    """Makes codes of a format of `source` for one GEMM after another, each its own.

    Where they are `held`, steps are numbers that FP16 holds, so that a dequantiser may have either type; rounded up, so
    that nothing is clipped for it. ONNX Runtime makes an integer product only of a GEMM whose quantiser nothing else
    reads, and merges equal ones: each further step is the next larger number.
    """

    source: gs.Tensor
    step: float
    format: CodeFormat = INT8
    held: bool = True
    readers: int = 0
    made: gs.Variable | None = None

    def values(self, build: NodeBuilder) -> gs.Variable:
        """What the codes stand for: QuantizeLinear and DequantizeLinear. Codes of four bits are the same for all."""
        if self.format == FP4:
            if self.made is None:
                self.made = four_bit_values(build, self.source, self.step)
            return self.made
        size = held_step(self.step) if self.held else np.float32(self.step)
        for _ in range(self.readers):
            size = np.nextafter(size, np.float32(np.inf))
        self.readers += 1
        zero = build.constant("zero", np.array(0, self.format.dtype))
        step = build.constant("step", np.array(size))
        codes = build.op("QuantizeLinear", [self.source, step, zero], "codes")
        codes.dtype = self.format.dtype
        return build.op("DequantizeLinear", [codes, step, zero], "values")


def multiplies_codes(node: gs.Node) -> bool:
    """Whether both operands are codes: where the weight alone is, it computes in what the activation is."""
    makers = [tensor.inputs for tensor in node.inputs[:2]] if node.op in ("MatMul", "Gemm") else []
    return bool(makers) and all(made and made[0].op == "DequantizeLinear" for made in makers)


def turned(codes: Array | StoredValues) -> Array | StoredValues:
    """Codes of the other sign. Of integers none may be the least of its type, which has no negative there; weights have
    none, since their codes are symmetric."""
    if isinstance(codes, StoredValues):
        return codes.divided(np.asarray(-1))
    return np.asarray(-codes, codes.dtype)


def held_step(step: float) -> np.float32:
    """The next larger step that FP16 holds at full precision; the step itself where its range ends."""
    nearest = np.float16(step)
    held = nearest if np.float32(nearest) >= np.float32(step) else np.nextafter(nearest, np.float16(np.inf))
    return np.float32(held) if HALF.least <= step <= HALF.largest else np.float32(step)


def evened(build: NodeBuilder, x: gs.Tensor) -> tuple[gs.Variable, gs.Variable]:
    """`x` over each row's largest magnitude, and those magnitudes [.., 1]."""
    largest = build.op("ReduceMax", [build.op("Abs", [x], "size"), build.ints("last", -1)], "largest", keepdims=1)
    rows = build.op("Max", [largest, build.floats("smallest", SMALLEST_ROW)], "rows")
    return build.op("Mul", [x, build.op("Reciprocal", [rows], "rows_inverse")], "even"), rows
