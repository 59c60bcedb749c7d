"""BF16 on runtimes without BF16 arithmetic: compute in FP32 and round every result to BF16."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

BF16, FP32 = TensorProto.BFLOAT16, TensorProto.FLOAT


def emulate_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with each BF16 tensor held in FP32 and rounded to BF16 where it is made.

    Run it without graph optimisations: a pair of casts is no identity here.
    """
    typed = onnx.shape_inference.infer_shapes(model)
    low = {v.name for v in typed.graph.value_info if v.type.tensor_type.elem_type == BF16}
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    del emulated.graph.node[:], emulated.graph.value_info[:]
    for tensor in emulated.graph.initializer:
        if tensor.data_type == BF16:
            tensor.CopyFrom(_widened(tensor))
    for node in model.graph.node:
        emulated.graph.node.extend(_rounded(node, low))
    return emulated


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _rounded(node: onnx.NodeProto, low: set[str]) -> list[onnx.NodeProto]:
    """`node` in FP32, followed by a rounding pair of casts for each of its BF16 outputs."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == BF16:
            attribute.i = FP32
    nodes = [copy]
    for i, name in enumerate(node.output):
        if name in low:
            copy.output[i] = f"{name}.exact"
            nodes.append(onnx.helper.make_node("Cast", [f"{name}.exact"], [f"{name}.bf16"], to=BF16))
            nodes.append(onnx.helper.make_node("Cast", [f"{name}.bf16"], [name], to=FP32))
    return nodes
