"""ONNX files that others made: what is refused, naming the node and the way out, and what is brought into our form.

After `adapt`, every node has a unique name, every batch axis is called `batch`, and the opset is `OPSET`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto, version_converter

from graphs.artifacts import TensorSpec
from graphs.constant_nodes import spell_out_constants
from graphs.dsr.domain import DOMAIN, register_schemas
from graphs.errors import ExportError
from graphs.files import graph_inputs
from graphs.foreign.function_calls import inlined
from graphs.foreign.model_parts import model_parts
from graphs.foreign.opened import foreign_file, sound_model
from graphs.foreign.static_branches import without_static_branches
from graphs.foreign.symbolic_ops import symbolic_problems
from graphs.foreign.tensor_sizes import check_sizes
from graphs.op_limits import ENGINE_OPS
from graphs.precisions import quantized_precisions
from graphs.stage_specs import DATA_DEPENDENT, STANDARD_DOMAINS

OPSET = 20  # what every target reads and the lowerings are written in
BATCH = "batch"
INPUT_TYPES = ("float32", "int64", "int32", "bool")
_WIDE_OR_NARROW = frozenset(
    value for name, value in TensorProto.DataType.items() if "FLOAT" in name and name != "FLOAT"
) | {TensorProto.DOUBLE}
_AGAIN = "export it again in float32; dsr-export writes the precision itself (--precision fp16)"

_NO_TENSORS = re.compile("Optional.*|Sequence.*|SplitToSequence|ConcatFromSequence")
"""Ops that make or take lists of tensors, or perhaps none: no engine and no reader of ours has such values."""
_QUANTISED = re.compile(
    "[Qq]uantize|Integer$|IntegerToFloat$|^QLinear|^QGemm|^QAttention|^QMoE|^QOrdered|^QEmbed|NBits|Bnb4|FpQ4"
)
"""Op types of ONNX, ONNX Runtime and ModelOpt."""
_HERE = " or ".join(quantized_precisions())
_FLOAT = f"build from the float model that it was made of; --precision {_HERE} quantises it here"


def read_foreign(path: Path) -> onnx.ModelProto:
    """The checked model, its local functions inlined, its external weights left on disk.

    Raises:
        ExportError: no ONNX model, external data outside of the model's folder, ops that are not standard or whose
            shape or flow depends on data, a graph that is quantised already, weights of another type than FP32.
    """
    register_schemas()
    with foreign_file(path):
        return _checked(path)


def _checked(path: Path) -> onnx.ModelProto:
    model = sound_model(path)
    for problem in _type_problems(model):  # before a function that is never called is dropped
        raise problem
    model = inlined(model)
    if any(node.op_type == "If" for node in model.graph.node):
        spell_out_constants(model_parts(model).nodes)
        model = without_static_branches(model)
    for problem in (*_op_problems(model), *_type_problems(model)):
        raise problem
    spell_out_constants(model_parts(model).nodes)
    check_sizes(model)
    return model


def adapt(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` at `OPSET`, with named nodes, weights that are no inputs, and batch axes called `batch`.

    Raises:
        ExportError: the opset cannot be converted, or an input has no usable batch axis.
    """
    converted = _converted(model)
    free = batch_size(model) is None
    constants = {tensor.name for tensor in converted.graph.initializer}
    inputs = [value for value in converted.graph.input if value.name not in constants]
    for value in inputs:
        if free:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del converted.graph.input[:], converted.metadata_props[:]
    if not any(node.domain == DOMAIN for node in converted.graph.node):  # nothing infers shapes behind a symbolic op
        del converted.graph.value_info[:]
    converted.graph.input.extend(inputs)
    name_nodes(converted)
    return converted


def foreign_inputs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """The inputs that must be fed, a free first axis called `batch`. Raises `ExportError` as `batch_size` does."""
    free = batch_size(model) is None
    return tuple(replace(spec, shape=(BATCH, *spec.shape[1:])) if free else spec for spec in graph_inputs(model))


def batch_size(model: onnx.ModelProto) -> int | None:
    """The one batch size of a static model, None where the first axis of every input is free.

    Raises:
        ExportError: an input that is no tensor of a known type, has no batch axis, or has another free axis; or inputs
            that disagree.
    """
    inputs = graph_inputs(model)
    if not inputs:
        raise ExportError("the model has no inputs", hint="what it computes never changes; there is nothing to export")
    for spec in inputs:
        _check_input(spec)
    sizes = {spec.name: spec.shape[0] for spec in inputs}
    fixed = {size for size in sizes.values() if isinstance(size, int)}
    if not fixed:
        return None
    if len(fixed) > 1 or any(isinstance(size, str) for size in sizes.values()):
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ExportError(f"the first axes of the inputs disagree about the batch: {listed}", hint=_BATCH_FIRST)
    return fixed.pop()


_BATCH_FIRST = "export it with the batch as the first axis of every input, free for all or fixed for all"


def _check_input(spec: TensorSpec) -> None:
    where = f"input '{spec.name}' {spec.dtype} {list(spec.shape)}"
    if spec.dtype not in INPUT_TYPES:
        raise ExportError(f"{where}: only {', '.join(INPUT_TYPES)} are taken", hint=_AGAIN)
    if not spec.shape:
        raise ExportError(f"{where} has no batch axis", hint=_BATCH_FIRST)
    free = [axis for axis in spec.shape[1:] if isinstance(axis, str)]
    if free:
        hint = "fix it: python -m onnxruntime.tools.make_dynamic_shape_fixed --dim_param NAME --dim_value SIZE"
        raise ExportError(f"{where}: only the first axis may be free, and {', '.join(free)} is too", hint=hint)


def name_nodes(model: onnx.ModelProto) -> None:
    """Gives each node a unique name: its own, `/blocks.0/attn/MatMul` as `blocks.0.attn/MatMul`, or `graph/<op>_<k>`.

    TorchScript's exporter writes module paths with slashes; ours, and every message about a module, with dots.
    """
    taken: set[str] = set()
    repeats: Counter[str] = Counter()
    unnamed: Counter[str] = Counter()
    for node in model.graph.node:
        stem = _dotted(node.name) if node.name else f"graph/{node.op_type}_{unnamed[node.op_type]}"
        unnamed[node.op_type] += not node.name
        node.name = stem
        while node.name in taken:
            repeats[stem] += 1
            node.name = f"{stem}_{repeats[stem]}"
        taken.add(node.name)
        del node.metadata_props[:]


def _dotted(name: str) -> str:
    if not name.startswith("/"):
        return name
    *modules, op = name.strip("/").split("/")
    return f"{'.'.join(modules) or 'root'}/{op}"


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    version = next(entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if version == OPSET:
        return copy
    try:
        return version_converter.convert_version(copy, OPSET)
    except (RuntimeError, version_converter.ConvertError) as error:
        reason = str(error).rsplit(": ", 1)[-1]
        raise ExportError(
            f"the model is ONNX opset {version} and cannot be converted to {OPSET}: {reason}",
            hint=f"export it again with opset {OPSET}",
        ) from error


def _op_problems(model: onnx.ModelProto) -> Iterator[ExportError]:
    if model.graph.sparse_initializer:
        yield ExportError("the model holds sparse weights", hint="export it again with dense ones")
    if not any(entry.domain in STANDARD_DOMAINS for entry in model.opset_import):
        yield ExportError("the model does not say which ONNX opset it uses", hint=f"export it with opset {OPSET}")
    yield from _quantised(model)
    for problem in symbolic_problems(model.graph.node):
        yield ExportError(problem, hint="declare it with --dsr, or export the graph again")
    for node in model.graph.node:
        where = _where(node)
        if node.op_type == "EPContext":
            hint = "build from the model it was compiled from"
            yield ExportError(f"{where} holds another runtime's compiled code, which is never run", hint=hint)
        elif node.domain not in STANDARD_DOMAINS | {DOMAIN}:
            yield ExportError(f"{where} is of the domain '{node.domain}', not of standard ONNX", hint=_way_out(node))
        elif _NO_TENSORS.fullmatch(node.op_type):
            hint = "export it again with plain tensors: Split, Concat and Gather instead of lists"
            yield ExportError(f"{where} makes or takes something else than tensors", hint=hint)
        elif node.op_type in DATA_DEPENDENT:
            yield ExportError(f"{where} cannot become static", hint=ENGINE_OPS[node.op_type])


def _quantised(model: onnx.ModelProto) -> Iterator[ExportError]:
    """Names the first op: integers and scales were chosen for other kernels, and the float weights that a precision
    of ours starts from are gone."""
    for node in model.graph.node:
        if _QUANTISED.search(node.op_type):
            yield ExportError(
                f"the model is quantised already: it holds {_where(node)}, and only float models are taken", hint=_FLOAT
            )
            return


def _where(node: onnx.NodeProto) -> str:
    return f"{node.op_type} (node '{node.name or 'that makes ' + ', '.join(node.output)}')"


def _way_out(node: onnx.NodeProto) -> str:
    if node.domain.startswith(("com.microsoft", "ai.onnxruntime")):
        return "a contrib op that only ONNX Runtime knows; export without ONNX Runtime's optimisations"
    return "write it with standard ops, or as a function in the file"


def _type_problems(model: onnx.ModelProto) -> Iterable[ExportError]:
    parts = model_parts(model)
    for tensor in parts.tensors:
        if tensor.data_type in _WIDE_OR_NARROW:
            kind = TensorProto.DataType.Name(tensor.data_type)
            yield ExportError(f"the weight '{tensor.name}' is {kind}, and only FP32 models are taken", hint=_AGAIN)
    for node in parts.nodes:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _WIDE_OR_NARROW:
                kind = TensorProto.DataType.Name(attribute.i)
                where = node.name or f"that makes {', '.join(node.output)}"
                yield ExportError(f"Cast (node '{where}') goes to {kind}; only FP32 models are taken", hint=_AGAIN)
