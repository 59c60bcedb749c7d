"""INT8 for GEMMs of conditions [B, K]: an AdaLN reads one row, and is bound by reading its weight.

    Gemm(c, w_i) + b_i  ->  c / r = hi + lo / 126 -> Q -> DQ -> MatMul([hi, lo], DQ([w_1 .. w_n])) -> r (hi + lo / 126)
                            -> + [b_1 .. b_n] -> Split

Two rows of codes, the second for what the first leaves over, give the condition 13 bits for next to nothing: errors of
a modulation would reach every token. All GEMMs of one condition become one, since ONNX Runtime fuses no dequantiser
that several GEMMs read, and a device launches one kernel for all blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.constants import constant_value
from graphs.quantize.nan_rows import keep_nan
from graphs.quantize.quantizers import CONDITION_CODE, QuantizedGemm, Quantizer, evened, turned
from graphs.weights.gemms import WeightGemm, factor_of
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
REST = 2 * CONDITION_CODE  # what rounding leaves over lies within 1 / 126


def quantize_conditions(
    graph: gs.Graph, gemms: Sequence[WeightGemm], plan: Mapping[str, QuantizedGemm], spoilt: Collection[int]
) -> None:
    """Rewrites the condition GEMMs, in place; those that read the same tensor together.

    `spoilt` has the `id` of each tensor that may be NaN: its products are to be it, too.
    """
    groups: dict[int, list[WeightGemm]] = {}
    for gemm in gemms:
        groups.setdefault(id(gemm.activation), []).append(gemm)
    for group in groups.values():
        build = NodeBuilder(graph, "quantize", group[0].name)
        _rewrite(build, group, [plan[gemm.name] for gemm in group], id(group[0].activation) in spoilt)


def _rewrite(build: NodeBuilder, group: Sequence[WeightGemm], planned: Sequence[QuantizedGemm], with_nan: bool) -> None:
    activation = group[0].activation
    even, rows = evened(build, activation)
    if with_nan:
        rows = keep_nan(build, activation, rows)
    values = Quantizer(_pair(build, even), 1 / CONDITION_CODE, held=False).values(build)
    both = build.op("MatMul", [values, _weight(build, group, planned)], "product")  # [B, 2, all outputs]
    shares = build.constant("shares", np.array([[[1], [1 / REST]]], np.float32))
    joined = build.op(
        "ReduceSum", [build.op("Mul", [both, shares], "shared"), build.ints("pair", 1)], "joined", keepdims=0
    )
    scaled = build.op("Mul", [joined, rows], "condition_rows")
    whole = build.op("Add", [scaled, build.constant("bias", _bias(group, planned))], "condition_bias")
    _hand_out(build, whole, group)


def _pair(build: NodeBuilder, even: gs.Tensor) -> gs.Variable:
    """[B, K] within [-1, 1] -> [B, 2, K]: what its codes stand for, and what they leave over, enlarged to [-1, 1]."""
    scaled = build.op("Mul", [even, build.floats("largest_code", CONDITION_CODE)], "scaled")
    high = build.op("Mul", [build.op("Round", [scaled], "rounded"), build.floats("unit", 1 / CONDITION_CODE)], "high")
    low = build.op("Mul", [build.op("Sub", [even, high], "rest"), build.floats("finer", REST)], "low")
    axis = build.ints("pair_axis", 1)
    parts = [build.op("Unsqueeze", [part, axis], role) for part, role in ((high, "high_row"), (low, "low_row"))]
    return build.op("Concat", parts, "pair", axis=1)


def _weight(build: NodeBuilder, group: Sequence[WeightGemm], planned: Sequence[QuantizedGemm]) -> gs.Variable:
    signed = [
        turned(each.codes) if factor_of(gemm) < 0 else each.codes for gemm, each in zip(group, planned, strict=True)
    ]
    codes = [each.load() if isinstance(each, StoredValues) else each for each in signed]
    steps = np.concatenate(
        [each.weight_steps * abs(factor_of(gemm)) for gemm, each in zip(group, planned, strict=True)]
    ).astype(np.float32)
    constants = [
        build.constant("weight", np.concatenate(codes, axis=1)),
        build.constant("weight_steps", steps),
        build.constant("weight_zero", np.zeros(len(steps), np.int8)),
    ]
    return build.op("DequantizeLinear", constants, "dequantized_weight", axis=1)


def _bias(group: Sequence[WeightGemm], planned: Sequence[QuantizedGemm]) -> Array:
    """[all outputs]: the GEMMs' own, and what quantisation shifts."""
    parts = []
    for gemm, each in zip(group, planned, strict=True):
        own = constant_value(gemm.node.inputs[2]) if len(gemm.node.inputs) > 2 else None
        part = np.zeros(gemm.out_features) if own is None else own * gemm.node.attrs.get("beta", 1.0)
        parts.append(part if each.bias_shift is None else part + each.bias_shift * factor_of(gemm))
    return np.concatenate(parts).astype(np.float32)


def _hand_out(build: NodeBuilder, whole: gs.Variable, group: Sequence[WeightGemm]) -> None:
    """Every GEMM's output, under its own name, is a part of the whole."""
    outputs = [gemm.node.outputs[0] for gemm in group]
    for gemm in group:
        gemm.node.outputs.clear()
    if len(group) == 1:
        whole.inputs[0].outputs = outputs
        return
    sizes = build.ints("sizes", *(gemm.out_features for gemm in group))
    made = build.ops("Split", [whole, sizes], "parts", outputs=len(group), axis=1)
    made[0].inputs[0].outputs = outputs
