"""Which tensors may hold NaN or infinities by a graph's structure, for inputs that have none.

A quotient whose divisor may be zero, a root of what may be negative, a row of scores that are all masked: a LayerNorm
or a softmax without masks never makes any, thanks to its epsilon and its maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphs.quantize.value_ranges import (
    ANY,
    LARGEST,
    LARGEST_EXPONENT,
    LEAST,
    Range,
    exponent_of,
    of_constant,
    range_of,
)
from graphs.structure.movers import MOVERS
from graphs.weights.stored import StoredValues

_NEVER = frozenset(
    {"Shape", "Size", "IsNaN", "IsInf", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
    | {"Not", "And", "Or", "Xor", "ArgMax", "ArgMin"}
)
_NORMS = frozenset({"LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"})
_OUT_OF_DOMAIN = frozenset({"Acos", "Asin", "Acosh", "Atanh", "LpNormalization", "ReduceLogSum"})
_SCORES = MOVERS | {"Add", "Where", "Cast"}
"""What a mask that is an input goes through on its way to the scores."""
_ANY_MASK = frozenset({"Softmax", "LogSoftmax", "Attention", "ReduceLogSumExp"})


def may_be_nan(graph: gs.Graph) -> set[int]:
    """`id` of each tensor that may hold NaN or an infinity. Nodes must be in topological order."""
    ranges: dict[int, Range] = {}
    spoilt: set[int] = set()
    masks = {id(tensor) for tensor in graph.inputs if tensor.dtype is None or np.dtype(tensor.dtype).kind == "f"}
    for node in graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and id(tensor) not in ranges:
                ranges[id(tensor)] = of_constant(tensor)
                spoilt |= {id(tensor)} if _is_mask(tensor) else set()
        given = [ranges.get(id(tensor), ANY) for tensor in node.inputs]
        inherited = any(id(tensor) in spoilt for tensor in node.inputs)
        masked = any(id(tensor) in masks for tensor in node.inputs)
        if node.op not in _NEVER and (inherited or _makes_some(node, given) or (masked and node.op in _ANY_MASK)):
            spoilt |= {id(tensor) for tensor in node.outputs}
        if masked and node.op in _SCORES:
            masks |= {id(tensor) for tensor in node.outputs}
        made = range_of(node, given) if given else ANY
        ranges |= {id(tensor): made for tensor in node.outputs}
    return spoilt


def _makes_some(node: gs.Node, given: Sequence[Range]) -> bool:
    rule = _RULES.get(node.op)
    if node.op in _NORMS:
        return float(node.attrs.get("epsilon", 1e-5)) < LEAST
    return node.op in _OUT_OF_DOMAIN or (rule is not None and rule(node, given))


def _of_power(node: gs.Node, given: Sequence[Range]) -> bool:
    power = exponent_of(node)
    if power is None:
        return given[0].low < LEAST
    return (power < 0 and given[0].may_be_zero) or (power % 1 != 0 and given[0].low < 0)


_RULES: dict[str, Callable[[gs.Node, Sequence[Range]], bool]] = {
    "Div": lambda _, given: given[1].may_be_zero,
    "Mod": lambda _, given: given[1].may_be_zero,
    "Reciprocal": lambda _, given: given[0].may_be_zero,
    "Sqrt": lambda _, given: given[0].low < 0,
    "Log": lambda _, given: given[0].low < LEAST,
    "Pow": _of_power,
    "Exp": lambda _, given: given[0].high > LARGEST_EXPONENT,
    "ConstantOfShape": lambda node, _: "value" in node.attrs and _is_mask(node.attrs["value"]),
}


def _is_mask(tensor: gs.Tensor) -> bool:
    if tensor.dtype != np.float32 or isinstance(tensor._values, StoredValues):  # those are weights
        return False
    return bool(~(np.abs(tensor.values) <= LARGEST).all())
