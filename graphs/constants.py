"""Values that a graph fixes at export time, although they are written as nodes (a sum of two weights, say)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[Any]


def constant_value(tensor: gs.Tensor) -> Array | None:
    """The tensor's value where it depends on constants alone, else None."""
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    if not tensor.inputs or tensor.inputs[0].domain not in (None, "", "ai.onnx"):
        return None
    node = tensor.inputs[0]
    values = [constant_value(source) for source in node.inputs if not source.is_empty()]
    if any(value is None for value in values):
        return None
    return _evaluate(node, node.outputs.index(tensor), [value for value in values if value is not None])


def _evaluate(node: gs.Node, output: int, values: list[Array]) -> Array:
    names = [source.name for source in node.inputs if not source.is_empty()]
    graph = gs.Graph(
        nodes=[node.copy(inputs=[gs.Variable(t.name) for t in node.inputs], outputs=_anonymous(node))],
        inputs=[gs.Variable(name, value.dtype, value.shape) for name, value in zip(names, values, strict=True)],
        opset=20,
    )
    graph.outputs = graph.nodes[0].outputs
    model = gs.export_onnx(graph, do_type_check=False)
    model.ir_version = min(model.ir_version, onnx.IR_VERSION)
    result = ReferenceEvaluator(model).run(None, dict(zip(names, values, strict=True)))
    return np.asarray(list(result)[output])


def _anonymous(node: gs.Node) -> list[gs.Variable]:
    return [gs.Variable(f"out{i}", np.float32) for i in range(len(node.outputs))]
