"""Types and small values of a graph at one batch: what is computed from shapes is evaluated, weights are not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
_EVALUATED = 4096  # elements; shapes and masks are smaller, weights are not


class Inference:
    """One walk in topological order: the type of every tensor, and in `values` what constants and shapes alone make.

    A free batch counts `batch`. Nodes that hold graphs are not entered: what they make stays unknown.
    """

    def __init__(self, model: onnx.ModelProto, *, batch: int) -> None:
        self._model, self._batch = model, batch
        self._opsets = {entry.domain.replace("ai.onnx", ""): entry.version for entry in model.opset_import}
        self._types: dict[str, onnx.TypeProto] = {}
        self.values: dict[str, Array] = {}

    def run(self) -> Mapping[str, onnx.TypeProto]:
        graph = self._model.graph
        for tensor in graph.initializer:
            self._types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            if tensor.data_location != onnx.TensorProto.EXTERNAL and math.prod(tensor.dims) <= _EVALUATED:
                self.values[tensor.name] = numpy_helper.to_array(tensor)
        for value in graph.input:
            self._types.setdefault(value.name, _pinned(value.type, self._batch))
        for node in graph.node:
            self._infer(node)
        return self._types

    def _infer(self, node: onnx.NodeProto) -> None:
        read = [name for name in node.input if name]
        if not all(name in self._types for name in read) or any(each.HasField("g") for each in node.attribute):
            return
        try:
            made = onnx.shape_inference.infer_node_outputs(
                self._schema(node),
                node,
                {name: self._types[name] for name in read},
                {name: numpy_helper.from_array(self.values[name]) for name in read if name in self.values},
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
        shape = dims_of(self._types[read[0]]) if read else None
        if node.op_type == "Shape" and shape is not None:
            bounds = {each.name: each.i for each in node.attribute}
            self.values[node.output[0]] = np.array(shape[bounds.get("start", 0) : bounds.get("end")], np.int64)
            return
        sizes = [math.prod(dims) if (dims := dims_of(kind)) is not None else None for kind in made.values()]
        small = all(size is not None and size <= _EVALUATED for size in sizes)
        if small and all(name in self.values for name in read):
            model = self._single(node, read, list(made))
            results = ReferenceEvaluator(model).run(None, {name: self.values[name] for name in read})
            self.values.update(zip(made, (np.asarray(result) for result in results), strict=True))

    def _single(self, node: onnx.NodeProto, read: list[str], made: list[str]) -> onnx.ModelProto:
        inputs = [helper.make_value_info(name, self._types[name]) for name in dict.fromkeys(read)]
        outputs = [helper.make_value_info(name, self._types[name]) for name in made]
        graph = helper.make_graph([node], "one", inputs, outputs)
        return helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)


def _pinned(kind: onnx.TypeProto, batch: int) -> onnx.TypeProto:
    """The type of an input with its first axis pinned; `graphs.foreign.brought_in` refuses other free axes."""
    pinned = onnx.TypeProto()
    pinned.CopyFrom(kind)
    for dim in pinned.tensor_type.shape.dim[:1]:
        if not dim.HasField("dim_value"):
            dim.dim_value = batch
    return pinned


def dims_of(kind: onnx.TypeProto) -> Shape | None:
    """The shape, where all of it is known."""
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None
