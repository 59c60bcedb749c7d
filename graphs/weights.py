"""Which initialisers are weights of GEMMs and convolutions, and in which type they are stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

LOW_TYPES: Mapping[str, int] = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
"""Precision -> the type of its weights; other precisions keep FP32."""
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
    found: dict[str, Weight] = {}
    for node in model.graph.node:
        for name in node.input if node.op_type in WEIGHTED else ():
            tensor = initializers.get(name)
            if tensor is not None and len(tensor.dims) >= 2:
                found.setdefault(name, _weight(tensor, node.name))
    return list(found.values())


def low_precision_fraction(model: onnx.ModelProto, precision: str) -> float:
    """Share of the float weight bytes that have the low type of `precision`, 0 to 1."""
    weights = typed_weights(model)
    low = sum(weight.bytes for weight in weights if weight.type == LOW_TYPES.get(precision))
    return low / max(sum(weight.bytes for weight in weights), 1)


def _weight(tensor: onnx.TensorProto, node: str) -> Weight:
    elements = math.prod(tensor.dims)
    width: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return Weight(tensor.name, node, elements, elements * width, tensor.data_type)
