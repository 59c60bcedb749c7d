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
    values: list[Array] = []
    for source in node.inputs:
        if source.is_empty():
            continue
        value = constant_value(source)
        if value is None:  # stop at the first: every path up a residual stream would be walked otherwise
            return None
        values.append(value)
    return _evaluate(node, node.outputs.index(tensor), values)


def _evaluate(node: gs.Node, output: int, values: list[Array]) -> Array:
    names = [source.name for source in node.inputs if not source.is_empty()]
    known = dict(zip(names, values, strict=True))
    inputs = {name: gs.Variable(name, value.dtype, value.shape) for name, value in known.items()}
    copy = node.copy(inputs=[inputs.get(t.name, t) for t in node.inputs], outputs=_anonymous(node))
    graph = gs.Graph(nodes=[copy], inputs=list(inputs.values()), opset=20)
    graph.outputs = copy.outputs
    model = gs.export_onnx(graph, do_type_check=False)
    model.ir_version = min(model.ir_version, onnx.IR_VERSION)
    result = ReferenceEvaluator(model).run(None, known)
    return np.asarray(list(result)[output])


def _anonymous(node: gs.Node) -> list[gs.Variable]:
    return [gs.Variable(f"out{i}", np.float32) for i in range(len(node.outputs))]
