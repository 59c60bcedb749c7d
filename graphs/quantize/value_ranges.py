"""Between which bounds a tensor's numbers lie, as far as a graph's structure tells: whether a divisor may be zero.

Numbers of inputs and of products are taken as finite and of any size: what overflows is no matter of structure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from graphs.precisions import HELD
from graphs.structure.movers import MOVERS
from graphs.weights.stored import StoredValues

LARGEST = 1e38  # two of these add up to an infinity
LEAST = float(np.finfo(np.float32).tiny)  # what is smaller may count as zero
LARGEST_EXPONENT = 88.0  # of e, in FP32


@dataclass(frozen=True)
class Range:
    """The finite numbers lie within [low, high]; an infinite bound means that nothing is known."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def may_be_zero(self) -> bool:
        return self.low < LEAST and self.high > -LEAST

    def mapped(self, function: Callable[[float], float]) -> Range:
        """Through a function that grows."""
        return Range(function(self.low), function(self.high))


ANY, POSITIVE, UNIT, SIGNED = Range(), Range(0.0), Range(0.0, 1.0), Range(-1.0, 1.0)
_FIXED = {
    **dict.fromkeys(["Sigmoid", "HardSigmoid", "Softmax", "Not", "And", "Or", "Xor", "IsNaN", "IsInf"], UNIT),
    **dict.fromkeys(["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"], UNIT),
    **dict.fromkeys(["Tanh", "Erf", "Sin", "Cos", "Sign", "Softsign"], SIGNED),
    **dict.fromkeys(["ReduceL1", "ReduceL2", "ReduceSumSquare", "Softplus", "Shape", "Size"], POSITIVE),
}
_FLOATS = {*HELD, TensorProto.DOUBLE}
_KEPT = MOVERS - {"Pad", "Shape"} | {"GatherND", "ReduceMean", "ReduceMax", "ReduceMin"}
"""Ops whose results lie within the bounds of their first input."""


def range_of(node: gs.Node, given: Sequence[Range]) -> Range:
    """Of what `node` makes of inputs within `given`."""
    if node.op in _FIXED:
        return _FIXED[node.op]
    if node.op in _KEPT:
        return given[0]
    made = _MADE.get(node.op)
    return ANY if made is None else made(node, given)


def _joined(given: Sequence[Range]) -> Range:
    return Range(min(each.low for each in given), max(each.high for each in given))


def _summed(given: Sequence[Range], least: float = 0.0) -> Range:
    """A sum of what is never negative is not less than one of its parts."""
    return ANY if min(each.low for each in given) < 0 else Range(least)


def of_constant(tensor: gs.Constant) -> Range:
    """Of its finite values; weights are too many to be read."""
    if isinstance(tensor._values, StoredValues) or tensor.values.dtype.kind not in "fiub":
        return ANY
    values = tensor.values.astype(np.float64)
    values = values[np.isfinite(values)]
    return Range(float(values.min()), float(values.max())) if values.size else ANY


def exponent_of(node: gs.Node) -> float | None:
    """Of a Pow, where it is one constant."""
    power = node.inputs[1]
    return float(power.values.ravel()[0]) if isinstance(power, gs.Constant) and power.values.size == 1 else None


def _product(one: float, other: float) -> float:
    return 0.0 if 0.0 in (one, other) else one * other


def _times(one: Range, other: Range) -> Range:
    ends = [_product(a, b) for a in _ends(one) for b in _ends(other)]
    return Range(min(ends), max(ends))


def _ends(known: Range) -> tuple[float, float]:
    return known.low, known.high


def _even(known: Range, power: float = 2.0) -> Range:
    """Of an even power."""
    size = _size(known)
    return Range(_powered(size.low, power), _powered(size.high, power))


def _size(known: Range) -> Range:
    sizes = sorted(abs(end) for end in _ends(known))
    return Range(0.0 if known.low <= 0 <= known.high else sizes[0], sizes[1])


def _powered(value: float, power: float) -> float:
    try:
        return math.copysign(abs(value) ** power, value)
    except OverflowError:
        return math.copysign(math.inf, value)


def _inverse(known: Range) -> Range:
    if known.may_be_zero:
        return ANY
    return Range(*sorted(0.0 if math.isinf(end) else 1 / end for end in _ends(known)))


def _power(node: gs.Node, given: Sequence[Range]) -> Range:
    power = exponent_of(node)
    if power is None:
        return ANY
    positive = _even(given[0], abs(power)) if power % 2 == 0 else given[0].mapped(lambda end: _powered(end, abs(power)))
    return _inverse(positive) if power < 0 else positive


def _whole(end: float) -> float:
    """What an integer makes of it: what lies between -1 and 1 is zero."""
    return end if abs(end) >= 1 else 0.0


def _exponential(end: float) -> float:
    return math.exp(end) if end < LARGEST_EXPONENT else math.inf


def _clipped(_: gs.Node, given: Sequence[Range]) -> Range:
    low, high = (*given[1:], ANY, ANY)[:2]
    return Range(min(max(given[0].low, low.low), high.high), min(max(given[0].high, low.high), high.high))


_MADE: dict[str, Callable[[gs.Node, Sequence[Range]], Range]] = {
    "Add": lambda _, given: Range(given[0].low + given[1].low, given[0].high + given[1].high),
    "Sub": lambda _, given: Range(given[0].low - given[1].high, given[0].high - given[1].low),
    "Mul": lambda node, given: _even(given[0]) if node.inputs[0] is node.inputs[1] else _times(*given),
    "Div": lambda _, given: _times(given[0], _inverse(given[1])),
    "ReduceSum": lambda _, given: _summed(given[:1], given[0].low),
    "CumSum": lambda _, given: _summed(given[:1]),
    "MatMul": lambda _, given: _summed(given),
    "Concat": lambda _, given: _joined(given),
    "Where": lambda _, given: _joined(given[1:]),
    "Pad": lambda _, given: _joined([given[0], Range(0.0, 0.0), *given[2:3]]),
    "Trilu": lambda _, given: _joined([given[0], Range(0.0, 0.0)]),
    "Cast": lambda node, given: given[0] if node.attrs.get("to") in _FLOATS else given[0].mapped(_whole),
    "Neg": lambda _, given: Range(-given[0].high, -given[0].low),
    "Abs": lambda _, given: _size(given[0]),
    "Relu": lambda _, given: given[0].mapped(lambda end: max(end, 0.0)),
    "Sqrt": lambda _, given: given[0].mapped(lambda end: math.sqrt(max(end, 0.0))),
    "Exp": lambda _, given: given[0].mapped(_exponential),
    "Reciprocal": lambda _, given: _inverse(given[0]),
    "Pow": _power,
    "Max": lambda _, given: Range(max(each.low for each in given), max(each.high for each in given)),
    "Min": lambda _, given: Range(min(each.low for each in given), min(each.high for each in given)),
    "Clip": _clipped,
}
