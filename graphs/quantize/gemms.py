"""Writes codes into a graph: explicit QuantizeLinear and DequantizeLinear around weight GEMMs.

    MatMul(x, w) -> [x / rows] -> Q -> DQ -> MatMul(., DQ(w8)) -> [* rows] -> Add(bias)

Symmetric, zero point 0; activations per tensor, weights per output channel. Scales are FP32 here, so that ONNX Runtime
fuses the pair around each MatMul into its integer kernel; what lies between the GEMMs gets its type afterwards, and in
the form for engines so do they. `rows` is a factor per token: constant, for register rows of another magnitude, or
each token's own largest value, so that one outlier token costs the others nothing and nothing is ever clipped. It
commutes with the product (right-multiplication), so it is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.constants import constant_value
from graphs.opsets import raise_opset
from graphs.outside_readers import only_reader, outside_readers
from graphs.quantize.conditions import quantize_conditions
from graphs.quantize.formats import FP4, format_of
from graphs.quantize.four_bit import MOST_AXES, four_bit_weight
from graphs.quantize.nan_rows import keep_nan
from graphs.quantize.nan_sources import may_be_nan
from graphs.quantize.product_codes import add_product_codes
from graphs.quantize.quantizers import Activation, QuantizedGemm, Quantizer, evened, turned
from graphs.weights.gemms import WeightGemm, factor_of, weight_gemms
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
    # By activation and format: GEMMs that share one share its rows.
    done: dict[tuple[int, str], tuple[Quantizer, gs.Tensor | None]] = {}
    for gemm in chosen:
        planned = plan[gemm.name]
        if planned.activation is None:
            continue
        build = NodeBuilder(graph, "quantize", gemm.name)
        source = id(gemm.activation)
        if not planned.activation.format.is_code:
            _weight_codes(graph, gemm, planned)
            continue
        key = source, planned.activation.format.name
        if key not in done:
            quantizer, rows = _quantized_input(build, gemm.activation, planned.activation)
            done[key] = quantizer, keep_nan(build, gemm.activation, rows) if source in spoilt else rows
        quantizer, rows = done[key]
        _integer_gemm(build, gemm, planned, quantizer.values(build), rows)
    quantize_conditions(graph, [gemm for gemm in chosen if plan[gemm.name].activation is None], plan, spoilt)


def _weight_codes(graph: gs.Graph, gemm: WeightGemm, planned: QuantizedGemm) -> None:
    """The weight alone in codes."""
    build = NodeBuilder(graph, "quantize", gemm.name)
    _integer_gemm(build, gemm, planned, gemm.activation, None)


def _integer_gemm(
    build: NodeBuilder, gemm: WeightGemm, planned: QuantizedGemm, x: gs.Tensor, rows: gs.Tensor | None
) -> None:
    """Gemm becomes MatMul and Add: no bias stands between the integer product and its scales."""
    node, out = gemm.node, gemm.node.outputs[0]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    factor, share = factor_of(gemm), float(node.attrs.get("beta", 1.0))
    shift = None if planned.bias_shift is None else planned.bias_shift * factor
    node.op, node.attrs = "MatMul", {}
    by_channel = planned.weight_steps.ndim == 1
    if factor < 0 and by_channel:  # TensorRT takes positive steps alone
        planned, factor = replace(planned, codes=turned(planned.codes)), -factor
    node.inputs = [x, _dequantized_weight(build, planned, factor if by_channel else 1.0)]
    if planned.product_steps is not None and factor > 0:
        add_product_codes(build, out, np.asarray(planned.product_steps * factor, np.float32))
    if _is_flat(gemm.activation, planned.activation):
        _behind(build, node, out, "Reshape", build.ints("sizes", *_sizes(gemm)), "shaped")
    if planned.branch is not None:
        _add_branch(build, gemm, planned.branch, out)
    if factor != 1 and not by_channel:  # steps of blocks are numbers that their format holds
        _behind(build, out.inputs[0], out, "Mul", build.floats("factor", factor), "scaled")
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
    if _is_flat(x, activation):
        source = build.op("Reshape", [x, build.ints("flat_sizes", 0, -1, x.shape[-1])], "flat")
        source.shape = [x.shape[0], math.prod(x.shape[1:-1]) if _known(x.shape[1:-1]) else None, x.shape[-1]]
    elif activation.rows == "dynamic":
        source, rows = evened(build, x)
    elif activation.rows == "static":
        assert activation.row_factors is not None
        factors = np.asarray(activation.row_factors, np.float32).reshape(1, -1, 1)
        rows = build.constant("rows", factors)
        source = build.op("Mul", [x, build.constant("rows_inverse", 1 / factors)], "even")
    return Quantizer(source, activation.step, activation.format), rows


def _dequantized_weight(build: NodeBuilder, planned: QuantizedGemm, factor: float) -> gs.Variable:
    """The weight's values [in, out]; its scales lie along the outputs, and where they are of blocks the inputs too."""
    steps, form = np.asarray(planned.weight_steps * factor, np.float32), format_of(planned.codes)
    stored = isinstance(planned.codes, StoredValues)
    weight = build.constant("weight", np.zeros(0, form.dtype) if stored else planned.codes)
    if stored:
        weight._values = planned.codes
    if form == FP4:
        raise_opset(build.graph, form.opset)
        return four_bit_weight(build, weight, steps, planned.unit)
    scales = build.constant("weight_steps", steps)
    if steps.ndim > 1:
        raise_opset(build.graph, form.opset)
        size = planned.codes.shape[0] // len(steps)
        return build.op("DequantizeLinear", [weight, scales], "dequantized_weight", axis=0, block_size=size)
    inputs = [weight, scales, build.constant("weight_zero", np.zeros(len(steps), form.dtype))]
    return build.op("DequantizeLinear", inputs, "dequantized_weight", axis=1)


def _is_flat(x: gs.Tensor, activation: Activation | None) -> bool:
    """Whether the codes of `x` are made of three axes, which is all that TensorRT's quantiser takes."""
    return activation is not None and activation.format == FP4 and len(x.shape) > MOST_AXES


def _sizes(gemm: WeightGemm) -> list[int]:
    """Of what the GEMM makes, for a Reshape: one axis at most, the batch, has no number."""
    return [size if isinstance(size, int) else -1 for size in (*gemm.activation.shape[:-1], gemm.out_features)]


def _known(sizes: Sequence[Any]) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _add_branch(build: NodeBuilder, gemm: WeightGemm, branch: tuple[Array, Array], out: gs.Variable) -> None:
    """x down up is added to the product of codes."""
    down, up = (np.asarray(each, np.float32) for each in branch)
    narrow = build.op("MatMul", [gemm.activation, build.constant("down", down)], "narrow")
    beside = build.op("MatMul", [narrow, build.constant("up", up)], "branch")
    _behind(build, out.inputs[0], out, "Add", beside, "joined")


def _behind(build: NodeBuilder, node: gs.Node, out: gs.Variable, op: str, other: gs.Tensor, role: str) -> None:
    """Puts `op(., other)` between `node` and what it made, which keeps its name."""
    shape = None if op == "Reshape" else out.shape
    before = gs.Variable(f"{out.name}.{role}", np.dtype(np.float32), shape)
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
