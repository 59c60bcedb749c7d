"""What must hold of every QuantizeLinear and DequantizeLinear, whoever placed it.

TensorRT takes zero point 0 and INT8 or FP8 only (UINT8 silently as INT8), per-tensor activations and per-channel
weights, and fuses a pair only where a GEMM reads it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from graphs.names import is_lowered
from graphs.quantize.formats import FORMATS, FP8
from graphs.stage_specs import DYNAMIC_FOUR_BIT

_SENSITIVE = frozenset({"Softmax", "ReduceMean", "Where", "TopK", "Gather"})


def paired_quantizers(model: onnx.ModelProto) -> Iterator[str]:
    """Every Q feeds DQs of its own scale only, every DQ a GEMM only; zero points are zeros of a format."""
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
    if zero is None and node.op_type == "DequantizeLinear" and (_block(node) or _is_scale(node, constants)):
        return  # codes of blocks and of their scales tell their own type
    if zero is None:
        yield f"{node.name} has no constant zero point, so its type is not known to every runtime"
    elif zero.data_type not in FORMATS or np.any(numpy_helper.to_array(zero).astype(np.float32)):
        yield f"{node.name} has a zero point that is no INT8 zero, nor one of another format"


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


def _is_coded(gemm: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Whether its product is handed on as codes, past what only converts it."""
    found = readers.get(gemm.output[0], [])
    while len(found) == 1 and found[0].op_type == "Cast":
        found = readers.get(found[0].output[0], [])
    return len(found) == 1 and found[0].op_type == "QuantizeLinear"


def _is_product_code(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether the codes that it reads are of a GEMM's product, which need not go into another GEMM."""
    made = makers.get(node.input[0])
    while made is not None and made.op_type in ("QuantizeLinear", "Cast"):
        made = makers.get(made.input[0])
    return made is not None and made.op_type in ("MatMul", "Gemm")


def _is_scale(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether what it dequantises is made by the engine's own quantiser, or stored as FP8."""
    return node.input[0] not in constants or constants[node.input[0]].data_type == FP8.type


def _block(node: onnx.NodeProto) -> int:
    return next((each.i for each in node.attribute if each.name == "block_size"), 0)


def _same_scale(one: str, other: str, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether both are one constant, or the same number in two types."""
    if one == other:
        return True
    values = [numpy_helper.to_array(constants[name]).astype(np.float64) for name in (one, other) if name in constants]
    return len(values) == 2 and np.array_equal(values[0], values[1])


def _scale_problems(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> Iterator[str]:
    """Of the scales of blocks, which are codes themselves."""
    maker = makers.get(node.input[0])
    made = maker is not None and maker.op_type == DYNAMIC_FOUR_BIT
    if maker is not None and made and not _same_scale(node.input[1], maker.input[1], constants):
        yield f"{maker.name} and the dequantiser of its scales have different units"


def _dequantize_problems(
    node: onnx.NodeProto,
    makers: dict[str, onnx.NodeProto],
    readers: dict[str, list[onnx.NodeProto]],
    constants: dict[str, onnx.TensorProto],
) -> Iterator[str]:
    read = readers.get(node.output[0], [])
    if read and all(each.op_type == "DequantizeLinear" and each.input[1] == node.output[0] for each in read):
        yield from _scale_problems(node, makers, constants)
        return
    others = [each for each in read if each.op_type not in ("MatMul", "Gemm")]
    if others and not _is_product_code(node, makers):
        yield f"{node.name} is read by {others[0].name}, which is no GEMM"
    weight = constants.get(node.input[0])
    if weight is None:
        maker = makers.get(node.input[0])
        if maker is None or maker.op_type not in ("QuantizeLinear", DYNAMIC_FOUR_BIT):
            yield f"{node.name} dequantises what no QuantizeLinear made"
        return
    scale = constants.get(node.input[1])
    if scale is not None and list(scale.dims) in ([], [1]) and all(_is_coded(each, readers) for each in read):
        return  # its channels get their sizes behind the product's codes
    axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
    if not -len(weight.dims) <= axis < len(weight.dims):
        yield f"{node.name} dequantises a constant {list(weight.dims)}, which has no axis {axis}"
    elif block := _block(node):
        wanted = [size // block if i == axis % len(weight.dims) else size for i, size in enumerate(weight.dims)]
        made = makers.get(node.input[1])
        scale = constants.get(made.input[0]) if made is not None else scale
        if scale is None or list(scale.dims) != wanted or weight.dims[axis] % block:
            yield f"{node.name} has no scale for each of the weight's blocks of {block} inputs"
    elif scale is None or list(scale.dims) != [weight.dims[axis]]:
        yield f"{node.name} has no scale for each of the weight's {weight.dims[axis]} output channels"
