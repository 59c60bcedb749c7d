"""Types in a graph that its precision does not allow: half tensors in FP32, integer weights in FP16."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from graphs.precisions import FLOAT4, PRECISIONS, Precision
from graphs.stage_specs import is_engine_op
from graphs.weights.element_types import typed_weights

_TYPES = onnx.TensorProto
_WIDE = frozenset({_TYPES.FLOAT, _TYPES.DOUBLE})
_NARROW = frozenset(
    value for name, value in _TYPES.DataType.items() if name.startswith(("FLOAT16", "BFLOAT16", "FLOAT8", "FLOAT4"))
)
_QUANTIZES = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


def foreign_types(model: onnx.ModelProto, precision: Precision) -> list[str]:
    """What is in `model` and in no graph of `precision`, in words with the first place; empty where all fits.

    Weights of any precision are of its low type or wider. An FP32 graph has no half tensor at all and nothing that is
    quantised: it is run as it is, so that no rounding of its own would be seen. Needs no weight data.
    """
    allowed = _WIDE | PRECISIONS[precision].weight_types
    found: dict[str, str] = {}
    for weight in typed_weights(model):
        if weight.type not in allowed:
            found.setdefault(f"{_name(weight.type)} weights", weight.name)
    if FLOAT4 not in allowed:
        for node in model.graph.node:
            if is_engine_op(node):
                found.setdefault("FLOAT4E2M1 activations", node.name)
    if not PRECISIONS[precision].narrow:
        for kind, place in _narrow(model):
            found.setdefault(kind, place)
    return [f"{kind} ('{place[:80]}')" for kind, place in found.items()]


def _narrow(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """What is narrower than FP32, and where."""
    for graph in _graphs(model):
        for tensor in graph.initializer:
            if tensor.data_type in _NARROW:
                yield f"{_name(tensor.data_type)} tensors", tensor.name
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type in _NARROW:
                yield f"{_name(value.type.tensor_type.elem_type)} tensors", value.name
        for node in graph.node:
            if node.op_type in _QUANTIZES:
                yield node.op_type, node.name
            for kind in _made_by(node):
                if kind in _NARROW:
                    yield f"{_name(kind)} tensors", node.name


def _made_by(node: onnx.NodeProto) -> Iterator[int]:
    """Types that its attributes name: of a Cast, or of a constant."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype"):
            yield attribute.i
        if attribute.HasField("t"):
            yield attribute.t.data_type


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _name(kind: int) -> str:
    return str(_TYPES.DataType.Name(kind))
