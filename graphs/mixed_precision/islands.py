"""Which nodes compute in FP32 although the graph is FP16 or BF16, and why.

Sources: |x| > 255 overflows x^2 in FP16, so norms, detection, softmax statistics and embedders stay FP32; anything
whose measured range comes near the type's largest value does too (range audit). What decides (a comparison, an index)
decides in FP32: a float that it reads must not be rounded over a threshold on its way.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphs.mixed_precision.angles import angle_nodes
from graphs.mixed_precision.held_values import beyond
from graphs.mixed_precision.score_islands import CHOOSING, score_islands
from graphs.names import is_lowered, is_made, module_of, site_of
from graphs.precisions import Held
from graphs.structure.movers import MOVERS
from graphs.structure.spelt_norms import spelt_norms

SOFTMAX = "softmax statistics"
FP32_OPS: Mapping[str, str] = {
    **dict.fromkeys(
        ["ReduceMean", "ReduceSum", "ReduceL2", "ReduceProd", "Pow", "Sqrt", "Reciprocal"], "norm statistics"
    ),
    **dict.fromkeys(["ReduceL1", "ReduceSumSquare", "LpNormalization", "MeanVarianceNormalization"], "norm statistics"),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization", "GroupNormalization"], "norm statistics"),
    **dict.fromkeys(["InstanceNormalization", "BatchNormalization"], "norm statistics"),
    **dict.fromkeys(["Softmax", "LogSoftmax", "Exp", "Log", "ReduceLogSumExp", "ReduceLogSum"], SOFTMAX),
    **dict.fromkeys(["Sin", "Cos"], "sinusoidal embedding"),
    **dict.fromkeys(["TopK", "CumSum", "Range", "ConstantOfShape", "Resize"], "type-bound op"),
}
DECISIONS = frozenset(
    ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "ArgMax", "ArgMin", "Cast"]
)
"""Ops that make integers or booleans of floats; a Cast may."""
SANDWICHED = frozenset(["Add", "Sub", "Mul", "Div", "Neg", "Where", "Min", "Max", "Clip", "Abs", "Sigmoid", "Cast"])
"""Cheap ops that join FP32 neighbours rather than force two casts. Graph inputs are FP32: a timestep that is scaled on
its way to an FP32 embedder must not be rounded to 11 bits before it."""
_NORM_MODULE = re.compile(r"(^|\.)\w*norm\w*$")


@dataclass(frozen=True, kw_only=True)
class PrecisionPolicy:
    """`fp32_modules`: module paths kept whole in FP32. `wide_tensors`: tensors whose range the type lacks, with why.

    `maxima`: the largest magnitude seen in each tensor, where it was measured.
    """

    fp32_modules: Sequence[str] = ()
    wide_tensors: Mapping[str, str] = field(default_factory=dict)
    maxima: Mapping[str, float] = field(default_factory=dict)


def sinusoidal_modules(model: onnx.ModelProto, modules: Sequence[str]) -> tuple[str, ...]:
    """Those of `modules` that take sines: their angles need more than FP16's 11 bits."""
    sines = [module_of(node.name) for node in model.graph.node if node.op_type in ("Sin", "Cos")]
    return tuple(path for path in modules if any(each == path or each.startswith(path + ".") for each in sines))


def fp32_islands(graph: gs.Graph, policy: PrecisionPolicy, held: Held) -> dict[str, str]:
    """Node name -> the reason it computes in FP32, for all nodes that do. Nodes must be in topological order.

    `held` is what the type of the other nodes holds.
    """
    islands = {node.name: why for node in graph.nodes if (why := _reason(node, policy)) is not None}
    islands |= dict.fromkeys(sorted(spelt_norms(graph) - islands.keys()), "norm statistics")
    islands = beyond(graph, held) | islands
    islands |= dict.fromkeys(sorted(angle_nodes(graph, policy.maxima) - islands.keys()), "angle of a sine")
    softmax = {node.name for node in graph.nodes if FP32_OPS.get(node.op) == SOFTMAX}
    scores = score_islands(graph, softmax, islands, SANDWICHED | MOVERS | CHOOSING)
    islands |= dict.fromkeys(sorted(scores), "scores of a softmax")
    for node in graph.nodes:
        if node.name not in islands and node.op in SANDWICHED and _sandwiched(node, islands):
            islands[node.name] = "between FP32 nodes"
    return islands


def _reason(node: gs.Node, policy: PrecisionPolicy) -> str | None:
    module = site_of(node)  # of what a rewrite made, too: it computes in the type of what it replaces
    if is_lowered(node.name):
        return "outlier detection"
    if _NORM_MODULE.search(module):
        return "norm statistics"
    integer = _integer_boundary(node)
    if integer:
        return integer
    kept = [path for path in policy.fp32_modules if module == path or module.startswith(path + ".")]
    if kept:
        return f"module {kept[0]}"
    wide = [tensor.name for tensor in [*node.inputs, *node.outputs] if tensor.name in policy.wide_tensors]
    if wide:
        return f"range of {wide[0]}: {policy.wide_tensors[wide[0]]}"
    return "decision" if _decides(node) else FP32_OPS.get(node.op)


def _decides(node: gs.Node) -> bool:
    """Whether it makes integers or booleans of floats, and so no float."""
    floats = [any(tensor.dtype == np.float32 for tensor in tensors) for tensors in (node.inputs, node.outputs)]
    return node.op in DECISIONS and floats == [True, False]


def _integer_boundary(node: gs.Node) -> str | None:
    """FP32 scales around the integer product: FP16 has no room for small ones, and runtimes fuse the whole."""
    if node.op in ("QuantizeLinear", "DequantizeLinear") or is_made(node.name, "quantize"):
        return "INT8 boundary"
    if _is_integer_gemm(node):
        return "INT8 GEMM"
    if node.op == "Add" and any(isinstance(tensor, gs.Constant) for tensor in node.inputs):
        makers = [maker for tensor in node.inputs for maker in tensor.inputs]
        if any(_is_integer_gemm(maker) or is_made(maker.name, "quantize") for maker in makers):
            return "bias of an INT8 GEMM"
    return None


def _is_integer_gemm(node: gs.Node) -> bool:
    weight = node.inputs[1].inputs if node.op in ("MatMul", "Gemm") else []
    return bool(weight) and weight[0].op == "DequantizeLinear"


def _sandwiched(node: gs.Node, islands: Collection[str]) -> bool:
    producers = [source for tensor in node.inputs for source in tensor.inputs]
    consumers = [target for tensor in node.outputs for target in tensor.outputs]
    return bool(consumers) and all(n.name in islands for n in producers + consumers)
