"""Writes INT8 into a graph: explicit QuantizeLinear and DequantizeLinear around weight GEMMs.

    MatMul(x, w) -> [x / rows] -> Q -> DQ -> MatMul(., DQ(w8)) -> [* rows] -> Add(bias)

Symmetric, zero point 0; activations per tensor, weights per output channel. Scales are FP32, so that ONNX Runtime fuses
the pair around each MatMul into its integer kernel and no scale falls below FP16's smallest normal; what lies between
the GEMMs gets its type afterwards. `rows` is a factor per token: constant, for register rows of another magnitude, or
each token's own largest value, so that one outlier token costs the others nothing and nothing is ever clipped. It
commutes with the product (right-multiplication), so it is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.constants import constant_value
from graphs.stored import StoredValues
from graphs.weight_gemms import WeightGemm, weight_gemms

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
    """`codes` int8 times `weight_steps` [out] stand for the weight; `activation` is None for weight only.

    `codes` are [in, out], or in the layout of the GEMM's own weight where its arithmetic stays. `bias_shift` [out] is
    added to the bias: what quantisation changes on average.
    """

    codes: Array | StoredValues
    weight_steps: Array
    activation: Activation | None
    bias_shift: Array | None = None


def quantize_gemms(graph: gs.Graph, plan: Mapping[str, QuantizedGemm]) -> list[str]:
    """Rewrites the GEMMs that `plan` names by `WeightGemm.name`, in place; returns their names."""
    done: dict[int, tuple[gs.Variable, gs.Tensor | None]] = {}
    chosen = [gemm for gemm in weight_gemms(graph) if gemm.name in plan]
    for gemm in chosen:
        build = NodeBuilder(graph, "quantize", gemm.name)
        planned = plan[gemm.name]
        if planned.activation is None:
            _weight_only(build, gemm, planned)
            continue
        key = id(gemm.activation)
        if key not in done:
            done[key] = _quantized_input(build, gemm.activation, planned.activation)
        _integer_gemm(build, gemm, planned, *done[key])
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return [gemm.name for gemm in chosen]


def _weight_only(build: NodeBuilder, gemm: WeightGemm, planned: QuantizedGemm) -> None:
    """The weight alone: a condition of few rows gains nothing from integer arithmetic, its weight fills memory."""
    gemm.node.inputs[1] = _dequantized_weight(build, planned, axis=0 if gemm.transposed else 1)
    if planned.bias_shift is not None:
        _shift_bias(build, gemm, planned.bias_shift)


def _integer_gemm(
    build: NodeBuilder, gemm: WeightGemm, planned: QuantizedGemm, x: gs.Variable, rows: gs.Tensor | None
) -> None:
    """Gemm becomes MatMul and Add: no bias stands between the integer product and its scales."""
    node, out = gemm.node, gemm.node.outputs[0]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    factor, share = (float(node.attrs.get(key, 1.0)) for key in ("alpha", "beta"))
    node.op, node.attrs = "MatMul", {}
    node.inputs = [x, _dequantized_weight(build, planned, factor=factor)]
    shift = planned.bias_shift
    if bias is not None:
        known = constant_value(bias)
        assert known is not None  # `weight_gemms` takes no other
        shift = (0 if shift is None else shift) + share * known
    if rows is not None:
        _behind(build, node, out, "Mul", rows, "rows_back")
    if shift is not None:
        _add_bias(build, out, np.asarray(shift, np.float32))


def _quantized_input(build: NodeBuilder, x: gs.Tensor, activation: Activation) -> tuple[gs.Variable, gs.Tensor | None]:
    """The dequantised codes of `x`, and what the product is to be multiplied by afterwards."""
    rows: gs.Tensor | None = None
    source = x
    if activation.rows == "dynamic":
        largest = build.op("ReduceMax", [build.op("Abs", [x], "size"), build.ints("last", -1)], "largest", keepdims=1)
        rows = build.op("Max", [largest, build.floats("smallest", SMALLEST_ROW)], "rows")
        source = build.op("Mul", [x, build.op("Reciprocal", [rows], "rows_inverse")], "even")
    elif activation.rows == "static":
        assert activation.row_factors is not None
        factors = np.asarray(activation.row_factors, np.float32).reshape(1, -1, 1)
        rows = build.constant("rows", factors)
        source = build.op("Mul", [x, build.constant("rows_inverse", 1 / factors)], "even")
    step, zero = build.floats("step", activation.step), build.constant("zero", np.array(0, np.int8))
    codes = build.op("QuantizeLinear", [source, step, zero], "codes")
    codes.dtype, codes.shape = np.dtype(np.int8), x.shape
    return build.op("DequantizeLinear", [codes, step, zero], "values"), rows


def _dequantized_weight(
    build: NodeBuilder, planned: QuantizedGemm, *, axis: int = 1, factor: float = 1.0
) -> gs.Variable:
    """The weight's values; its scales lie along `axis`, the outputs."""
    steps = np.asarray(planned.weight_steps * factor, np.float32)
    stored = isinstance(planned.codes, StoredValues)
    weight = build.constant("weight", np.zeros(0, np.int8) if stored else planned.codes)
    if stored:
        weight._values = planned.codes
    zeros = build.constant("weight_zero", np.zeros(len(steps), np.int8))
    inputs = [weight, build.constant("weight_steps", steps), zeros]
    return build.op("DequantizeLinear", inputs, "dequantized_weight", axis=axis)


def _behind(build: NodeBuilder, node: gs.Node, out: gs.Variable, op: str, other: gs.Tensor, role: str) -> None:
    """Puts `op(., other)` between `node` and what it made, which keeps its name."""
    before = gs.Variable(f"{out.name}.{role}", np.dtype(np.float32), out.shape)
    node.outputs = [before]
    made = build.op(op, [before, other], role)
    made.inputs[0].outputs = [out]


def _add_bias(build: NodeBuilder, out: gs.Variable, shift: Array) -> None:
    """Into the bias that is added anyway, else by an Add of its own."""
    reader = out.outputs[0] if len(out.outputs) == 1 else None
    if reader is not None and reader.op == "Add":
        index = 1 - [tensor is out for tensor in reader.inputs].index(True)
        known = constant_value(reader.inputs[index])
        if known is not None and known.ndim <= 1:
            reader.inputs[index] = build.constant("bias", np.asarray(known + shift, np.float32))
            return
    _behind(build, out.inputs[0], out, "Add", build.constant("bias", shift), "biased")


def _shift_bias(build: NodeBuilder, gemm: WeightGemm, shift: Array) -> None:
    if gemm.node.op == "Gemm" and len(gemm.node.inputs) > 2:
        known = constant_value(gemm.node.inputs[2])
        if known is not None:
            gemm.node.inputs[2] = build.constant("bias", np.asarray(known + shift, np.float32))
            return
    _add_bias(build, gemm.node.outputs[0], shift)
