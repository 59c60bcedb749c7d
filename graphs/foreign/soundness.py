"""What any ONNX file must satisfy before something walks, converts or runs it: text, sizes and order that add up.

onnx's own checker has no bound on sizes, wants external data beside the process, and reads none of what is nested in
defaults of functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import onnx
from onnx import TensorProto

from graphs.errors import ExportError
from graphs.foreign.external_data import is_external, stored_bytes
from graphs.foreign.model_parts import Parts, model_parts

MOST_NODES = 200_000
"""Large models have some 50,000 after their functions are inlined; every node costs milliseconds in a build."""
MOST_ELEMENTS = 1 << 40
"""Of one tensor: 4 TB in FP32. What lies in a file is held against the file's own size."""
_HINT = "the file is damaged or no valid ONNX: export it again"
_TYPED: Mapping[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
}
"""Element type -> the field that holds its values, where they are not raw, and how many one element takes there."""
_FIELDS = ("float_data", "double_data", "int64_data", "uint64_data", "int32_data", "string_data")


def check_sound(model: onnx.ModelProto) -> None:
    """Checks what can be seen without inference; external data is `check_external_data`'s.

    Raises:
        ExportError: more than `MOST_NODES` nodes, names that are no text, tensors whose type, shape and data disagree,
            or a tensor that is made twice, or read before it is made.
    """
    parts = model_parts(model)
    if len(parts.nodes) > MOST_NODES:
        count = f"the model has {len(parts.nodes):,} nodes, and at most {MOST_NODES:,} are taken"
        raise ExportError(count, hint="export a smaller part of it at a time")
    for problem in (*_texts(model, parts), *_tensors(parts.tensors), *_order(model.graph)):
        raise ExportError(problem, hint=_HINT)


def _texts(model: onnx.ModelProto, parts: Parts) -> Iterator[str]:
    """protobuf hands out bytes where a string is no UTF-8, and everything that reads names would meet them."""
    values = [value for graph in parts.graphs for value in (*graph.input, *graph.output, *graph.value_info)]
    dims = (dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim)
    domains = (entry.domain for entry in (*model.opset_import, *_imports(model.functions)))
    functions = (text for f in model.functions for text in (f.name, f.domain, f.overload, *f.input, *f.output))
    own = (text for node in parts.nodes for text in (node.name, node.op_type, node.domain, *node.input, *node.output))
    attributes = (attribute.name for node in parts.nodes for attribute in node.attribute)
    tensors = (tensor.name for tensor in parts.tensors)
    for texts in (own, attributes, tensors, (value.name for value in values), dims, domains, functions):
        for text in texts:
            if not isinstance(text, str):
                yield f"a name in the model, {text[:40]!r}, is no text"
    if any(not node.op_type for node in parts.nodes):
        yield "a node of the model has no op type"


def _imports(functions: Iterable[onnx.FunctionProto]) -> Iterator[onnx.OperatorSetIdProto]:
    return (entry for function in functions for entry in function.opset_import)


def _tensors(tensors: Iterable[TensorProto]) -> Iterator[str]:
    known = set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
    for tensor in tensors:
        where = f"tensor '{tensor.name}'"
        if tensor.data_type not in known:
            yield f"{where} has the element type {tensor.data_type}, which ONNX does not know"
        elif tensor.data_type == TensorProto.STRING:
            yield f"{where} holds text, and only models of numbers are taken"
        elif any(dim < 0 for dim in tensor.dims) or math.prod(tensor.dims) > MOST_ELEMENTS:
            yield f"{where} has the impossible shape {list(tensor.dims)}"
        elif not is_external(tensor):
            yield from _contents(tensor, where)


def _contents(tensor: TensorProto, where: str) -> Iterator[str]:
    elements = math.prod(tensor.dims)
    shape = f"its shape {list(tensor.dims)}"
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != stored_bytes(tensor):
            yield f"{where} holds {len(tensor.raw_data)} bytes, where {shape} takes {stored_bytes(tensor)}"
        elif any(len(getattr(tensor, name)) for name in _FIELDS):
            yield f"{where} holds its values twice"
        return
    name, each = _TYPED.get(tensor.data_type, ("int32_data", 1))
    four_bits = stored_bytes(tensor) < elements
    needed = stored_bytes(tensor) if four_bits else elements * each
    if len(getattr(tensor, name)) != needed:
        yield f"{where} holds {len(getattr(tensor, name))} values, where {shape} takes {needed}"


def _order(graph: onnx.GraphProto) -> Iterator[str]:
    """Of the main graph; graphs within nodes are refused or inlined later, and may read what is around them."""
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made |= {tensor.values.name for tensor in graph.sparse_initializer}
    for listed, what in ((graph.input, "inputs"), (graph.initializer, "weights"), (graph.output, "outputs")):
        if len({entry.name for entry in listed}) < len(listed) or any(not entry.name for entry in listed):
            yield f"two {what} of the model have one name, or one has none"
    for node in graph.node:
        for name in node.input:
            if name and name not in made:
                yield f"{node.op_type} '{node.name}' reads the tensor '{name}', which nothing before it makes"
        for name in node.output:
            if name and name in made:
                yield f"the tensor '{name}' is made twice"
            made.add(name)
    for value in graph.output:
        if value.name not in made:
            yield f"the output '{value.name}' is never made"
