"""Tiny graphs with one symbolic `dsr` node, lowered and run: what the lowering tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from graphs.artifacts import LoweredModel, TracedModel
from graphs.dsr.domain import register_schemas
from graphs.lowering import lower
from graphs.rewrite import RewriteReport

Array = npt.NDArray[Any]


def replace_outliers_model(tokens: int, registers: Array, *weights: Array, **attributes: Any) -> onnx.ModelProto:
    """`x [batch, tokens, D] -> out` through one ReplaceOutliers node named like a traced one."""
    names = ["registers", "choice_weight", "gate_weight", "gate_bias"][: 1 + len(weights)]
    exclude = attributes.pop("exclude", ())
    node = helper.make_node(
        "ReplaceOutliers", ["x", *names], ["out"], name="blocks.0/ReplaceOutliers", domain="dsr", **attributes
    )
    if len(exclude):
        node.attribute.append(helper.make_attribute("exclude", list(exclude)))
    arrays = dict(zip(names, (registers, *weights), strict=True))
    return _model(node, "x", (tokens, registers.shape[1]), arrays)


def shift_neurons_model(rows: int, width: int, **attributes: Any) -> onnx.ModelProto:
    """`a [batch, rows, width] -> out` through one ShiftRegisterNeurons node."""
    node = helper.make_node(
        "ShiftRegisterNeurons", ["a"], ["out"], name="blocks.0.mlp/ShiftRegisterNeurons", domain="dsr", **attributes
    )
    return _model(node, "a", (rows, width), {})


def lowered(model: onnx.ModelProto, folder: Path) -> tuple[LoweredModel, list[RewriteReport]]:
    """Saves and lowers `model`, which holds one `dsr` node."""
    onnx.save(model, folder / "traced.onnx")
    op = model.graph.node[0].op_type
    return lower(TracedModel(path=folder / "traced.onnx", sites={op: 1}), folder / "lowered.onnx")


def session(model: LoweredModel) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])


def operators(model: LoweredModel) -> list[str]:
    return [node.op_type for node in onnx.load(model.path).graph.node]


def _model(node: onnx.NodeProto, name: str, shape: tuple[int, int], arrays: dict[str, Array]) -> onnx.ModelProto:
    register_schemas()
    value = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", *shape]) for n in (name, "out")]
    initializers = [numpy_helper.from_array(array.astype(np.float32), key) for key, array in arrays.items()]
    graph = helper.make_graph([node], "g", [value[0]], [value[1]], initializers)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("dsr", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
