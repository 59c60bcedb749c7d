"""Which nodes compute in FP32 although the graph is FP16 or BF16, and why.

Sources: |x| > 255 overflows x^2 in FP16, so norms, detection, softmax statistics and sines stay FP32; anything
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
from graphs.mixed_precision.guarded_quotients import guarded_quotients
from graphs.mixed_precision.held_values import beyond
from graphs.mixed_precision.score_islands import CHOOSING, score_islands
from graphs.names import is_lowered, is_made, made_role, site_of
from graphs.precisions import Held
from graphs.quantize.code_forms import BEHIND
from graphs.quantize.formats import format_of
from graphs.quantize.quantizers import multiplies_codes
from graphs.stage_specs import DYNAMIC_FOUR_BIT
from graphs.structure.movers import MOVERS
from graphs.structure.spelt_norms import spelt_norms
from graphs.weights.stored import StoredValues

_BESIDE = frozenset({"narrow", "branch", "flat"})
"""Roles of the nodes of a branch in floats, and of what lays out an activation otherwise."""
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
its way to FP32 sines must not be rounded to 11 bits before it."""
_NORM_MODULE = re.compile(r"(^|\.)\w*norm\w*$")


@dataclass(frozen=True, kw_only=True)
class PrecisionPolicy:
    """`fp32_modules`: module paths kept whole in FP32. `wide_tensors`: tensors whose range the type lacks, with why.

    `maxima`: the largest magnitude seen in each tensor, where it was measured. `narrow_products`: integer GEMMs hand on
    tensors of the low type (see `graphs.forms`).
    """

    fp32_modules: Sequence[str] = ()
    wide_tensors: Mapping[str, str] = field(default_factory=dict)
    maxima: Mapping[str, float] = field(default_factory=dict)
    narrow_products: bool = False


def fp32_islands(graph: gs.Graph, policy: PrecisionPolicy, held: Held) -> dict[str, str]:
    """Node name -> the reason it computes in FP32, for all nodes that do. Nodes must be in topological order.

    `held` is what the type of the other nodes holds.
    """
    islands = {node.name: why for node in graph.nodes if (why := _reason(node, policy)) is not None}
    islands |= dict.fromkeys(sorted(spelt_norms(graph) - islands.keys()), "norm statistics")
    # What is lost of a row of 1e-6 behind an integer product is lost of what it is added to, too.
    small = {
        name: why for name, why in beyond(graph, held).items() if not (policy.narrow_products and _is_product(name))
    }
    islands = _unheld_steps(graph, held) | small | islands
    islands |= dict.fromkeys(sorted(guarded_quotients(graph, held) - islands.keys()), "products of a guarded quotient")
    islands |= dict.fromkeys(sorted(angle_nodes(graph, policy.maxima) - islands.keys()), "angle of a sine")
    softmax = {node.name for node in graph.nodes if FP32_OPS.get(node.op) == SOFTMAX}
    scores = score_islands(graph, softmax, islands, SANDWICHED | MOVERS | CHOOSING)
    islands |= dict.fromkeys(sorted(scores), "scores of a softmax")
    for node in graph.nodes:
        if node.name not in islands and node.op in SANDWICHED and _sandwiched(node, islands):
            islands[node.name] = "between FP32 nodes"
    return islands | _wide_operands(graph, islands, policy.wide_tensors, held)


def _unheld_steps(graph: gs.Graph, held: Held) -> dict[str, str]:
    """Dequantisers of codes whose step the type does not hold to the last bit: the quantiser has it in FP32."""
    kind, found = onnx.helper.tensor_dtype_to_np_dtype(held.type), {}
    for node in graph.nodes:
        step = node.inputs[1] if node.op == "DequantizeLinear" and node.inputs[0].inputs else None
        if isinstance(step, gs.Constant) and not np.array_equal(step.values.astype(kind), step.values):
            found[node.name] = "step of the codes"
    return found


def _wide_operands(graph: gs.Graph, islands: Collection[str], wide: Collection[str], held: Held) -> dict[str, str]:
    """GEMMs of codes that compute in FP32, with both dequantisers: for what is behind them, for their scales, or for a
    product that is only small once its rows have their own size again.

    What is dequantised once for several GEMMs is FP32 for all of them.
    """
    found: dict[str, str] = {}
    while more := _wide_in_turn(graph, {*islands, *found}, islands, wide, held):
        found |= dict.fromkeys(sorted(more), "GEMM in codes")
    return found


def _wide_in_turn(
    graph: gs.Graph, known: Collection[str], islands: Collection[str], wide: Collection[str], held: Held
) -> set[str]:
    """Nodes that are FP32 because those `known` to be are, and are not known yet."""
    found: set[str] = set()
    for node in graph.nodes:
        operands = _dequantisers(node.inputs)
        scales = [each for operand in operands for each in _dequantisers(operand.inputs[1:2])]
        own = {node.name, *(each.name for each in (*operands, *scales))}
        wider = own & set(known) or _ends_wide(node, islands) or (operands and _starts_wide(operands[0], wide))
        beyond_rows = bool(operands) and _largest_even(node) > held.largest
        own |= {node.outputs[0].outputs[0].name} if beyond_rows else set()
        if operands and node.op in ("MatMul", "Gemm") and (wider or beyond_rows):
            found |= own - set(known)
    return found


def _dequantisers(tensors: Sequence[gs.Tensor]) -> list[gs.Node]:
    return [source for tensor in tensors for source in tensor.inputs if source.op == "DequantizeLinear"]


def _largest_even(gemm: gs.Node) -> float:
    """A bound of the product of rows that were made even, and are as large as they were only behind it; else 0."""
    if not multiplies_codes(gemm):  # of weights alone the other operand is no codes
        return 0.0
    readers = gemm.outputs[0].outputs
    made = [tensor.inputs[0].inputs for tensor in gemm.inputs[:2] if tensor.inputs]
    if len(readers) != 1 or not _is_product(readers[0].name) or readers[0].op != "Mul" or len(made) != 2:
        return 0.0
    (_, step, *_), (codes, steps, *_) = made
    if not all(isinstance(each, gs.Constant) for each in (step, codes, steps)):
        return 0.0
    stored = codes._values
    values = np.asarray(stored.load() if isinstance(stored, StoredValues) else codes.values)
    sums = np.abs(values.astype(np.float64)).sum(axis=0)
    return float((sums * np.abs(steps.values)).max(initial=0.0) * format_of(values).largest * step.values.item())


def _ends_wide(gemm: gs.Node, islands: Collection[str]) -> bool:
    """Whether its rows or its bias are FP32: what it hands on may be beyond the low type."""
    readers = gemm.outputs[0].outputs
    while len(readers) == 1 and (readers[0].op in ("Mul", "Add") or _is_product(readers[0].name)):
        constant = any(isinstance(tensor, gs.Constant) for tensor in readers[0].inputs)
        if not constant and not _is_product(readers[0].name):
            return False
        if readers[0].name in islands:
            return True
        readers = readers[0].outputs[0].outputs
    return False


def _starts_wide(dequantize: gs.Node, wide: Collection[str]) -> bool:
    """Whether what is quantised is beyond the low type, and with it the factors of its rows."""
    codes = dequantize.inputs[0].inputs
    x = codes[0].inputs[0] if codes else None
    even = x.inputs[0] if x is not None and x.inputs else None
    if even is not None and is_made(even.name, "quantize"):
        x = even.inputs[0]
    return x is not None and x.name in wide


def _reason(node: gs.Node, policy: PrecisionPolicy) -> str | None:
    module = site_of(node)  # of what a rewrite made, too: it computes in the type of what it replaces
    if is_lowered(node.name):
        return "outlier detection"
    if _NORM_MODULE.search(module):
        return "norm statistics"
    integer = _integer_boundary(node, policy.narrow_products)
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


def _integer_boundary(node: gs.Node, narrow: bool) -> str | None:
    """Codes are made in FP32. Behind the integer product FP32 scales are what ONNX Runtime fuses, and what has room for
    small ones; where products are `narrow` it is of the type around it, as engines move it."""
    dequantizes, product = node.op == "DequantizeLinear", _is_product(node.name)
    if node.op == "QuantizeLinear" or _makes_codes(node, dequantizes=dequantizes, product=product):
        return "boundary of codes"
    if narrow:
        return None
    if product or (dequantizes and any(multiplies_codes(reader) for reader in node.outputs[0].outputs)):
        return "boundary of codes"
    if multiplies_codes(node):
        return "GEMM in codes"
    if node.op == "Add" and any(isinstance(tensor, gs.Constant) for tensor in node.inputs):
        makers = [maker for tensor in node.inputs for maker in tensor.inputs]
        if any(multiplies_codes(maker) or is_made(maker.name, "quantize") for maker in makers):
            return "bias of a GEMM in codes"
    return None


def _makes_codes(node: gs.Node, *, dequantizes: bool, product: bool) -> bool:
    """Whether a rewrite made it before the product, for codes of eight bits; a branch beside it is as any GEMM."""
    role = made_role(node.name, "quantize")
    own = role is not None and role not in _BESIDE
    return own and not dequantizes and not product and node.op != DYNAMIC_FOUR_BIT


def _is_product(name: str) -> bool:
    """Whether a rewrite made it behind an integer product, for its rows, its bias or a branch beside it."""
    return made_role(name, "quantize") in BEHIND


def _sandwiched(node: gs.Node, islands: Collection[str]) -> bool:
    producers = [source for tensor in node.inputs for source in tensor.inputs]
    consumers = [target for tensor in node.outputs for target in tensor.outputs]
    return bool(consumers) and all(n.name in islands for n in producers + consumers)
