"""Constants that a low type cannot hold, and the tensors that are as small or as large because of them.

An epsilon that becomes 0 gives 0 / 0, a mask of -3.4e38 becomes an infinity, a LayerScale of 1e-7 switches its channels
off. So the node of such a constant computes in FP32, and so does what reads a tensor that the constant bounds: behind
`max(norm, 1e-12)` the norm itself may be 1e-12, and behind `1 / sqrt(mean + 1e-12)` stands 1e6.

What is harmless: small elements of a weight or table whose largest one is held (their error is one of the last bit of
the sum they go into), so that of GEMM weights, tables and biases only those are kept that are small as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx.helper import tensor_dtype_to_np_dtype

from graphs.precisions import Held
from graphs.structure.movers import MOVERS
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
GEMMS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"})
_EACH_COUNTS = frozenset(
    {"Mul", "Div", "Max", "Min", "Clip", "Pow", "Where", "Mod", "PRelu", "Greater", "GreaterOrEqual"}
    | {"Less", "LessOrEqual", "Equal", "DequantizeLinear"}
)
"""Ops for which each element of a scalar or of a vector per channel is a value of its own, however large others are."""
_PASSING = MOVERS - {"Pad", "Shape"} | {
    *("Cast", "Concat", "ConstantOfShape", "Neg", "Abs", "Relu"),
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
}
_BOUNDING = frozenset({"Add", "Sub", "Max", "Min", "Clip", "Where"})
_ROOTS = {"Sqrt": 0.5, "Reciprocal": -1.0}


def beyond(graph: gs.Graph, held: Held) -> dict[str, str]:
    """Node -> why it computes in FP32, in the order of the graph, whose nodes must be in topological order."""
    reach: dict[int, float] = {}
    found: dict[str, str] = {}
    for node in graph.nodes:
        sizes = [reach[id(tensor)] for tensor in node.inputs if id(tensor) in reach]
        lost = next(_lost(node, held), None)
        if lost is not None:
            found[node.name] = f"constant {lost:.3g}"
        elif sizes:
            found[node.name] = f"values of {sizes[0]:.3g} by a constant"
        size = _reached(node, lost, sizes)
        if size is not None and size not in held:
            reach |= {id(tensor): size for tensor in node.outputs}
    return found


def _lost(node: gs.Node, held: Held) -> Iterator[float]:
    """The magnitude of a constant of `node` that the type cannot hold, of each that has one."""
    filled = [node.attrs["value"]] if node.op == "ConstantOfShape" and "value" in node.attrs else []
    for tensor in [*node.inputs, *filled]:
        if isinstance(tensor, gs.Constant) and tensor.dtype == np.float32:
            sizes = np.abs(_values(tensor))
            sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
            if sizes.size and sizes.max() > held.largest:
                yield float(sizes.max())
            elif sizes.size and (small := _small(node, tensor, sizes, held)).size:
                yield float(small.max())


def _small(node: gs.Node, tensor: gs.Constant, sizes: Array, held: Held) -> Array:
    """Those of `sizes` that count, and are rounded by more than the type's own precision."""
    vector = sum(size != 1 for size in tensor.shape) <= 1
    if not (vector and node.op in _EACH_COUNTS) and sizes.max() >= held.least:
        return sizes[:0]
    small = sizes[sizes < held.least]
    rounded = small.astype(tensor_dtype_to_np_dtype(held.type)).astype(np.float64)
    return small[np.abs(rounded - small) > held.exact * small]


def _values(tensor: gs.Constant) -> Array:
    return np.asarray(tensor._values.load() if isinstance(tensor._values, StoredValues) else tensor.values)


def _reached(node: gs.Node, lost: float | None, sizes: list[float]) -> float | None:
    """A magnitude that the output may have for all that is known; None where nothing is, or data decide."""
    if node.op in _PASSING:
        return lost if lost is not None else sizes[0] if sizes else None
    if node.op in _ROOTS and sizes:
        return float(sizes[0] ** _ROOTS[node.op])
    if node.op == "Pow":
        exponent = node.inputs[1]
        known = isinstance(exponent, gs.Constant) and exponent.values.size == 1 and sizes
        return float(sizes[0] ** float(exponent.values.ravel()[0])) if known else None
    if node.op in _BOUNDING:
        return _bounded(node, lost, sizes)
    return _scaled(node, lost, sizes)


def _bounded(node: gs.Node, lost: float | None, sizes: list[float]) -> float | None:
    """`x + c`, `max(x, c)`, `where(m, x, c)`: the constant stands alone where `x` is zero, or is not chosen.

    Beside another constant that is held a small one is no longer seen, and two large ones cancel.
    """
    constant = _scalar(node)
    if lost is not None:
        return lost if not sizes or lost < 1 else None
    if not sizes:
        return None
    if sizes[0] < 1:
        return max(sizes[0], constant) if constant is not None else None
    return sizes[0]


def _scaled(node: gs.Node, lost: float | None, sizes: list[float]) -> float | None:
    """`x * c` and `x / c` are as far away as the constant, and move what has been away before."""
    if node.op not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    constants = [isinstance(tensor, gs.Constant) for tensor in node.inputs]
    if not any(constants):
        return None
    other = lost if lost is not None else _scalar(node)
    size = sizes[0] if sizes else 1.0
    if other is None or not (lost is not None or sizes):
        return None
    if node.op == "Mul":
        return size * other
    return other / size if constants[0] else size / other


def _scalar(node: gs.Node) -> float | None:
    """The largest finite magnitude among the node's constants."""
    found = [np.abs(_values(t)) for t in node.inputs if isinstance(t, gs.Constant) and t.dtype == np.float32]
    finite = [float(each[np.isfinite(each)].max()) for each in found if np.isfinite(each).any()]
    return max(finite, default=None)
