"""How large a foreign graph's tensors get, found out before anything runs: 200 bytes can ask for terabytes."""

from __future__ import annotations

import math

import onnx
from onnx import helper

from graphs.errors import ExportError
from graphs.foreign.small_constants import MAKERS, with_small_constants

MOST_FED = 1 << 26
"""Elements of all inputs together, at the file's own batch or one row: ten times the latents of a video model."""
MOST_MADE = 1 << 29
"""Elements of a tensor in between: a decoder of 1,024 pixels makes 2**28, the scores of 24 heads over 4,096 tokens
1.5 times as many. 2 GB in FP32, which a model may ask for that has weights to match; see `SMALL`."""
SMALL = 1 << 27
"""Elements, 512 MB, that any model may ask for in one tensor: the scores of 4 heads over 4,096 tokens and a prompt.
More is for larger models: a file of 1 kB has no use for gigabytes."""
PER_WEIGHT = 16
"""Elements of one tensor that a model may ask for beyond `SMALL`, for each of its weights."""
MOST_FIXED = 1 << 26
"""Elements of a tensor that depends on no input, where the file holds no larger one: tables and masks are smaller."""
_VALUE = 4096  # elements; what inference reads shapes from is smaller
_HINT = "do not use this model if it came from someone else; else export it with smaller fixed shapes"


def check_sizes(model: onnx.ModelProto) -> None:
    """Raises `ExportError` for an input or a tensor of an inferred shape that has too many elements for a model."""
    stored = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    fed = [(value, _elements(value)) for value in model.graph.input if value.name not in stored]
    for value, _ in fed:
        _check_dims(value)
    if sum(elements for _, elements in fed) > MOST_FED:
        name, most = max(((value.name, elements) for value, elements in fed), key=lambda pair: pair[1])
        raise ExportError(
            f"the inputs of the model are too large: '{name}' has {most:,} elements, and {MOST_FED:,} are taken",
            hint=_HINT,
        )
    _check_made(model, {value.name for value, _ in fed}, list(stored.values()))


def _check_made(model: onnx.ModelProto, fed: set[str], stored: list[int]) -> None:
    light = _light(model)
    fixed, ranges = with_small_constants(light.graph, _VALUE)
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    values = [*inferred.value_info, *inferred.output]
    sizes = ranges | {value.name: _elements(value) for value in values}
    _check_told(light.graph, {value.name for value in values if _is_told(value)}, fixed)
    variable = set(fed)
    most_made = min(MOST_MADE, max(SMALL, PER_WEIGHT * sum(stored)))
    for node in model.graph.node:
        varies = any(name in variable for name in node.input)
        variable.update(node.output if varies else ())
        limit = most_made if varies else max(MOST_FIXED, 4 * max(stored, default=0))
        for name in node.output:
            if sizes.get(name, 0) > limit:
                raise ExportError(
                    f"{node.op_type} (node '{node.name}') makes the tensor '{name}' of {sizes[name]:,} elements, and at"
                    f" most {limit:,} are taken",
                    hint=_HINT,
                )


def _check_told(graph: onnx.GraphProto, told: set[str], fixed: set[str]) -> None:
    """Raises where a size comes from constants by a way that nothing here can follow."""
    computed = {name for node in graph.node if node.op_type != "Constant" for name in node.output}
    for node in graph.node:
        read = [node.input[i] for i in MAKERS.get(node.op_type, ()) if i < len(node.input) and node.input[i]]
        if read and all(name in fixed for name in read) and computed & set(read) and node.output[0] not in told:
            raise ExportError(
                f"how large {node.op_type} (node '{node.name}') makes the tensor '{node.output[0]}' cannot be told",
                hint="export it with the shape as a constant",
            )


def _is_told(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim)


def _light(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` for one row, with inputs for its large weights: inference would copy gigabytes."""
    light = onnx.ModelProto(ir_version=max(4, model.ir_version), opset_import=model.opset_import)
    light.graph.name = "light"
    light.graph.node.extend(model.graph.node)
    for value in model.graph.output:  # without the shape that it declares
        light.graph.output.append(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None))
    external = onnx.TensorProto.EXTERNAL
    names = {tensor.name for tensor in model.graph.initializer}
    light.graph.input.extend(value for value in model.graph.input if value.name not in names)
    for dim in (dim for value in light.graph.input for dim in value.type.tensor_type.shape.dim):
        dim.dim_value = dim.dim_value or 1
    for tensor in model.graph.initializer:
        if tensor.data_location == external or math.prod(tensor.dims) > _VALUE:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            light.graph.initializer.append(tensor)
    return light


def _check_dims(value: onnx.ValueInfoProto) -> None:
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value <= 0:
            message = f"input '{value.name}' has the size {dim.dim_value} along axis {axis}"
            raise ExportError(message, hint="export it again; an axis that is free has a name, not a size")


def _elements(value: onnx.ValueInfoProto) -> int:
    """Elements of a tensor whose free axes count once."""
    return math.prod(dim.dim_value if dim.HasField("dim_value") else 1 for dim in value.type.tensor_type.shape.dim)
