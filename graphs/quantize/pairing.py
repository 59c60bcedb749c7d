"""What must hold of every QuantizeLinear and DequantizeLinear, whoever placed it.

TensorRT takes zero point 0 and INT8 only (UINT8 silently as INT8), per-tensor activations and per-channel weights, and
fuses a pair only where a GEMM reads it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from graphs.names import is_lowered

_SENSITIVE = frozenset({"Softmax", "ReduceMean", "Where", "TopK", "Gather"})


def paired_quantizers(model: onnx.ModelProto) -> Iterator[str]:
    """Every Q feeds DQs of its own scale only, every DQ a GEMM only; zero points are INT8 zeros."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield from _zero_problems(node, constants)
        if node.op_type == "QuantizeLinear":
            yield from _quantize_problems(node, makers, readers, constants)
        elif node.op_type == "DequantizeLinear":
            yield from _dequantize_problems(node, makers, readers, constants)


def _zero_problems(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Iterator[str]:
    zero = constants.get(node.input[2]) if len(node.input) > 2 else None
    if zero is None:
        yield f"{node.name} has no constant zero point, so its type is not INT8 for every runtime"
    elif zero.data_type != onnx.TensorProto.INT8 or np.any(numpy_helper.to_array(zero)):
        yield f"{node.name} has a zero point that is no INT8 zero"


def _quantize_problems(
    node: onnx.NodeProto,
    makers: dict[str, onnx.NodeProto],
    readers: dict[str, list[onnx.NodeProto]],
    constants: dict[str, onnx.TensorProto],
) -> Iterator[str]:
    if [each for each in readers.get(node.output[0], []) if each.op_type != "DequantizeLinear"]:
        yield f"{node.name} is read by more than dequantisers"
    if any(not _same_scale(each.input[1], node.input[1], constants) for each in readers.get(node.output[0], [])):
        yield f"{node.name} and its dequantiser have different scales"
    scale = constants.get(node.input[1])
    if scale is None or len(scale.dims) > 1 or int(np.prod(scale.dims)) != 1:
        yield f"{node.name} has no scale of its own for the whole tensor"
    maker = makers.get(node.input[0])
    if maker is not None and (is_lowered(maker.name) or maker.op_type in _SENSITIVE):
        yield f"{node.name} quantises what {maker.name} makes, which stays in floating point"


def _same_scale(one: str, other: str, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether both are one constant, or the same number in two types."""
    if one == other:
        return True
    values = [numpy_helper.to_array(constants[name]).astype(np.float64) for name in (one, other) if name in constants]
    return len(values) == 2 and np.array_equal(values[0], values[1])


def _dequantize_problems(
    node: onnx.NodeProto,
    makers: dict[str, onnx.NodeProto],
    readers: dict[str, list[onnx.NodeProto]],
    constants: dict[str, onnx.TensorProto],
) -> Iterator[str]:
    others = [each for each in readers.get(node.output[0], []) if each.op_type not in ("MatMul", "Gemm")]
    if others:
        yield f"{node.name} is read by {others[0].name}, which is no GEMM"
    weight = constants.get(node.input[0])
    if weight is None:
        maker = makers.get(node.input[0])
        if maker is None or maker.op_type != "QuantizeLinear":
            yield f"{node.name} dequantises what no QuantizeLinear made"
        return
    scale = constants.get(node.input[1])
    axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
    if not -len(weight.dims) <= axis < len(weight.dims):
        yield f"{node.name} dequantises a constant {list(weight.dims)}, which has no axis {axis}"
    elif scale is None or list(scale.dims) != [weight.dims[axis]]:
        yield f"{node.name} has no scale for each of the weight's {weight.dims[axis]} output channels"
