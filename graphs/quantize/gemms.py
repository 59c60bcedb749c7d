"""Writes INT8 into a graph: explicit QuantizeLinear and DequantizeLinear around weight GEMMs.

    MatMul(x, w) -> [x / rows] -> Q -> DQ -> MatMul(., DQ(w8)) -> [* rows] -> Add(bias)

Symmetric, zero point 0; activations per tensor, weights per output channel. Scales are FP32 here, so that ONNX Runtime
fuses the pair around each MatMul into its integer kernel; what lies between the GEMMs gets its type afterwards, and in
the form for engines so do they. `rows` is a factor per token: constant, for register rows of another magnitude, or
each token's own largest value, so that one outlier token costs the others nothing and nothing is ever clipped. It
commutes with the product (right-multiplication), so it is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.constants import constant_value
from graphs.outside_readers import only_reader, outside_readers
from graphs.quantize.conditions import quantize_conditions
from graphs.quantize.nan_rows import keep_nan
from graphs.quantize.nan_sources import may_be_nan
from graphs.quantize.parted_gemms import parted
from graphs.quantize.quantizers import Activation, QuantizedGemm, Quantizer, evened
from graphs.weights.gemms import WeightGemm, weight_gemms
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]


def quantize_gemms(graph: gs.Graph, plan: Mapping[str, QuantizedGemm]) -> list[str]:
    """Rewrites the GEMMs that `plan` names by `WeightGemm.name`, in place; returns their names."""
    chosen = [gemm for gemm in weight_gemms(graph) if gemm.name in plan]
    with outside_readers(graph):
        _quantize(graph, chosen, plan)
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return [gemm.name for gemm in chosen]


def _quantize(graph: gs.Graph, chosen: Sequence[WeightGemm], plan: Mapping[str, QuantizedGemm]) -> None:
    spoilt = may_be_nan(graph)
    done: dict[int, tuple[Quantizer, gs.Tensor | None]] = {}  # by activation: GEMMs that share one share its rows
    for gemm in chosen:
        planned = plan[gemm.name]
        if planned.activation is None:
            continue
        build = NodeBuilder(graph, "quantize", gemm.name)
        key = id(gemm.activation)
        if key not in done:
            quantizer, rows = _quantized_input(build, gemm.activation, planned.activation)
            done[key] = quantizer, keep_nan(build, gemm.activation, rows) if key in spoilt else rows
        quantizer, rows = done[key]
        for part, share in parted(graph, gemm, planned):
            own = build if part is gemm else NodeBuilder(graph, "quantize", part.name)
            _integer_gemm(own, part, share, quantizer.values(own), rows)
    quantize_conditions(graph, [gemm for gemm in chosen if plan[gemm.name].activation is None], plan, spoilt)


def _integer_gemm(
    build: NodeBuilder, gemm: WeightGemm, planned: QuantizedGemm, x: gs.Variable, rows: gs.Tensor | None
) -> None:
    """Gemm becomes MatMul and Add: no bias stands between the integer product and its scales."""
    node, out = gemm.node, gemm.node.outputs[0]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    factor, share = (float(node.attrs.get(key, 1.0)) for key in ("alpha", "beta"))
    node.op, node.attrs = "MatMul", {}
    node.inputs = [x, _dequantized_weight(build, planned, factor)]
    shift = planned.bias_shift
    if bias is not None:
        known = constant_value(bias)
        assert known is not None  # `weight_gemms` takes no other
        shift = (0 if shift is None else shift) + share * known
    if rows is not None:
        _behind(build, out.inputs[0], out, "Mul", rows, "rows_back")
    if shift is not None:
        _add_bias(build, out, np.asarray(shift, np.float32))


def _quantized_input(build: NodeBuilder, x: gs.Tensor, activation: Activation) -> tuple[Quantizer, gs.Tensor | None]:
    """What makes the codes of `x`, and what the product is to be multiplied by afterwards."""
    rows: gs.Tensor | None = None
    source = x
    if activation.rows == "dynamic":
        source, rows = evened(build, x)
    elif activation.rows == "static":
        assert activation.row_factors is not None
        factors = np.asarray(activation.row_factors, np.float32).reshape(1, -1, 1)
        rows = build.constant("rows", factors)
        source = build.op("Mul", [x, build.constant("rows_inverse", 1 / factors)], "even")
    return Quantizer(source, activation.step), rows


def _dequantized_weight(build: NodeBuilder, planned: QuantizedGemm, factor: float) -> gs.Variable:
    """The weight's values [in, out]; its scales lie along the outputs."""
    steps = np.asarray(planned.weight_steps * factor, np.float32)
    stored = isinstance(planned.codes, StoredValues)
    weight = build.constant("weight", np.zeros(0, np.int8) if stored else planned.codes)
    if stored:
        weight._values = planned.codes
    zeros = build.constant("weight_zero", np.zeros(len(steps), np.int8))
    inputs = [weight, build.constant("weight_steps", steps), zeros]
    return build.op("DequantizeLinear", inputs, "dequantized_weight", axis=1)


def _behind(build: NodeBuilder, node: gs.Node, out: gs.Variable, op: str, other: gs.Tensor, role: str) -> None:
    """Puts `op(., other)` between `node` and what it made, which keeps its name."""
    before = gs.Variable(f"{out.name}.{role}", np.dtype(np.float32), out.shape)
    node.outputs = [before]
    made = build.op(op, [before, other], role)
    made.inputs[0].outputs = [out]


def _add_bias(build: NodeBuilder, out: gs.Variable, shift: Array) -> None:
    """Into the bias that is added anyway, else by an Add of its own."""
    reader = only_reader(out)
    if reader is not None and reader.op == "Add":
        index = 1 - [tensor is out for tensor in reader.inputs].index(True)
        known = constant_value(reader.inputs[index])
        if known is not None and known.ndim <= 1:
            reader.inputs[index] = build.constant("bias", np.asarray(known + shift, np.float32))
            return
    _behind(build, out.inputs[0], out, "Add", build.constant("bias", shift), "biased")
