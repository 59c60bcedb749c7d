"""Which initialisers are weights of GEMMs and convolutions, and in which type they are stored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx

from graphs.errors import ExportError
from graphs.precisions import PRECISIONS, Precision
from graphs.weights.packed import packed_size

WEIGHTED = frozenset({"MatMul", "Gemm", "Conv"})


@dataclass(frozen=True)
class Weight:
    """An initialiser with at least two axes that `node` multiplies by. `type` is its ONNX element type."""

    name: str
    node: str
    elements: int
    bytes: int
    type: int


def typed_weights(model: onnx.ModelProto) -> list[Weight]:
    """All weights, once each, in node order; needs no weight data."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in initializers:
            initializers[node.output[0]] = initializers[node.input[0]]
    found: dict[str, Weight] = {}
    for node in model.graph.node:
        for name in node.input if node.op_type in WEIGHTED else ():
            tensor = initializers.get(name)
            if tensor is not None and len(tensor.dims) >= 2:
                found.setdefault(name, _weight(tensor, node.name))
    return list(found.values())


def low_precision_fraction(model: onnx.ModelProto, precision: Precision) -> float:
    """Share of the weights' bytes that have the low type of `precision`, 0 to 1; of their number where it quantises.

    0 for FP32, which has none. A graph without weights has nothing that could be wider.
    """
    record = PRECISIONS[precision]
    if not record.narrow:
        return 0.0
    weights = typed_weights(model)
    sizes = {weight.name: weight.elements if record.quantized else weight.bytes for weight in weights}
    low = sum(sizes[weight.name] for weight in weights if weight.type in record.narrow_types)
    total = sum(sizes.values())
    return low / total if total else 1.0


def _weight(tensor: onnx.TensorProto, node: str) -> Weight:
    elements = math.prod(tensor.dims)
    try:
        size = packed_size(elements, tensor.data_type)
    except KeyError:
        raise ExportError(
            f"tensor {tensor.name[:80]!r} has the element type {tensor.data_type}, which ONNX does not know",
            hint="the model is damaged: export it again, or build the bundle again",
        ) from None
    return Weight(tensor.name, node, elements, size, tensor.data_type)
