"""A graph whose every shape is numbers: its free batch is pinned while patterns are looked for.

Inference keeps products with a named axis as unknowns (`batch * heads`), and gives up where a shape is computed from
another one, as TorchScript's exporter writes them. A prime that no model has as a size makes the batch a number that
stays recognisable, and whatever is computed from shapes can be evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor
from onnx.reference import ReferenceEvaluator

from graphs.files import INLINE_BELOW, imported
from graphs.foreign.brought_in import BATCH

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
PINNED = 999_983  # a prime
_EVALUATED = 4096  # elements; shapes and masks are smaller, weights are not


def pinned_graph(model: onnx.ModelProto, folder: Path) -> gs.Graph:
    """`model`, whose external weights lie in `folder`, with numbers for shapes and no Constant nodes.

    Shapes that cannot be inferred are None. A free batch counts `PINNED` everywhere but in the graph's inputs.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _inline_small(copy, folder)
    _lift_constants(copy.graph)
    del copy.graph.value_info[:]
    known = _Inference(copy).run()
    graph = imported(copy, folder)
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable):
            kind = known.get(tensor.name)
            tensor.shape = None if kind is None else _dims(kind)
            tensor.dtype = tensor.dtype if kind is None else _dtype(kind)
    return graph


def unpin(graph: gs.Graph) -> gs.Graph:
    """Names the batch again; multiples of it are called after it. Changes `graph` in place."""
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor.shape is not None:
            tensor.shape = [_name(dim) for dim in tensor.shape]
    return graph


def is_batch(dim: int) -> bool:
    """Whether a pinned dim grows with the batch."""
    return dim >= PINNED and dim % PINNED == 0


def _name(dim: int) -> int | str:
    if not is_batch(dim):
        return dim
    return BATCH if dim == PINNED else f"{BATCH}*{dim // PINNED}"


class _Inference:
    """One walk in topological order: the type of every tensor, and the value of those that only shapes make."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._opsets = {entry.domain.replace("ai.onnx", ""): entry.version for entry in model.opset_import}
        self._types: dict[str, onnx.TypeProto] = {}
        self._values: dict[str, Array] = {}

    def run(self) -> Mapping[str, onnx.TypeProto]:
        graph = self._model.graph
        for tensor in graph.initializer:
            self._types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            if tensor.data_location != onnx.TensorProto.EXTERNAL and math.prod(tensor.dims) <= _EVALUATED:
                self._values[tensor.name] = numpy_helper.to_array(tensor)
        for value in graph.input:
            self._types.setdefault(value.name, _pinned(value.type))
        for node in graph.node:
            self._infer(node)
        return self._types

    def _infer(self, node: onnx.NodeProto) -> None:
        read = [name for name in node.input if name]
        if not all(name in self._types for name in read):
            return
        try:
            made = onnx.shape_inference.infer_node_outputs(
                self._schema(node),
                node,
                {name: self._types[name] for name in read},
                {name: numpy_helper.from_array(self._values[name]) for name in read if name in self._values},
                opset_imports=list(self._model.opset_import),
                ir_version=self._model.ir_version,
            )
        except (onnx.shape_inference.InferenceError, onnx.defs.SchemaError):
            return  # its shape stays unknown, and what needs it says so
        self._types.update(made)
        self._evaluate(node, read, made)

    def _schema(self, node: onnx.NodeProto) -> onnx.defs.OpSchema:
        domain = node.domain.replace("ai.onnx", "")
        return onnx.defs.get_schema(node.op_type, self._opsets[domain], domain)

    def _evaluate(self, node: onnx.NodeProto, read: list[str], made: Mapping[str, onnx.TypeProto]) -> None:
        shape = _dims(self._types[read[0]]) if read else None
        if node.op_type == "Shape" and shape is not None:
            bounds = {each.name: each.i for each in node.attribute}
            self._values[node.output[0]] = np.array(shape[bounds.get("start", 0) : bounds.get("end")], np.int64)
            return
        sizes = [math.prod(dims) if (dims := _dims(kind)) is not None else None for kind in made.values()]
        small = all(size is not None and size <= _EVALUATED for size in sizes)
        if small and all(name in self._values for name in read):
            model = self._single(node, read, list(made))
            results = ReferenceEvaluator(model).run(None, {name: self._values[name] for name in read})
            self._values.update(zip(made, (np.asarray(result) for result in results), strict=True))

    def _single(self, node: onnx.NodeProto, read: list[str], made: list[str]) -> onnx.ModelProto:
        inputs = [helper.make_value_info(name, self._types[name]) for name in dict.fromkeys(read)]
        outputs = [helper.make_value_info(name, self._types[name]) for name in made]
        graph = helper.make_graph([node], "one", inputs, outputs)
        return helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)


def _pinned(kind: onnx.TypeProto) -> onnx.TypeProto:
    """The type of an input with its first axis pinned; `graphs.foreign.brought_in` refuses other free axes."""
    pinned = onnx.TypeProto()
    pinned.CopyFrom(kind)
    for dim in pinned.tensor_type.shape.dim[:1]:
        if not dim.HasField("dim_value"):
            dim.dim_value = PINNED
    return pinned


def _dims(kind: onnx.TypeProto) -> Shape | None:
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def _dtype(kind: onnx.TypeProto) -> Any:
    return helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)


def _inline_small(model: onnx.ModelProto, folder: Path) -> None:
    """Shapes and axes must be readable; only weights stay in their file."""
    for tensor in model.graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if external and math.prod(tensor.dims) * 8 < INLINE_BELOW:
            load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes become initialisers, so that there is one kind of constant."""
    kept = []
    for node in graph.node:
        if node.op_type == "Constant":
            graph.initializer.append(_constant(node))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    kind = np.float32 if "float" in attribute.name else np.int64
    return numpy_helper.from_array(np.asarray(value, kind), node.output[0])
