"""Reading and writing ONNX files. Weights above a threshold go beside the model, since protobuf ends at 2 GB."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx_graphsurgeon.logger import G_LOGGER

from graphs.artifacts import TensorSpec
from graphs.errors import ExportError
from graphs.weights.packed import HALVES, PackedValues
from graphs.weights.stored import keep_stored, store, stored_constants

Array = npt.NDArray[Any]
EXTERNAL_ABOVE = 16 << 20  # bytes of weights; each stage would write and parse them again
ONE_FILE_BELOW = 256 << 20  # bytes of weights in what ships; up to there one file is handier
INLINE_BELOW = 1 << 20  # bytes of a tensor; registers, biases and shapes stay where rewrites can read them
LARGEST_MODEL = 2**31 - 1  # bytes; protobuf's own limit
PORTABLE_GRAPH, RUNTIME_GRAPH = "model.onnx", "onnxruntime.onnx"
"""Two files of one folder: a graph that ships, and what ONNX Runtime runs in its place, over the same weights."""
IR_VERSION = 10  # what opset 20 needs and every target reads


def weights_file(model: Path) -> Path:
    """Where the weights of a model lie that are not in its own file."""
    owner = PORTABLE_GRAPH if model.name == RUNTIME_GRAPH else model.name
    return model.with_name(owner + ".data")


def load_model(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """The model at `path`. Raises `ExportError` where it is missing or no ONNX."""
    try:
        _check_file(path)
        return onnx.load(path, load_external_data=weights)
    except FileNotFoundError as error:
        raise ExportError(f"{path} does not exist", hint="check the path") from error
    except (DecodeError, onnx.checker.ValidationError) as error:
        hint = "the file is damaged or no ONNX: export it again, or build the bundle again"
        raise ExportError(f"{path} is not a readable ONNX model: {error}", hint=hint) from error


def _check_file(path: Path) -> None:
    """Before it is opened: a pipe would wait for ever, and a device has no end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ExportError(f"{path} is not a regular file", hint="check the path")
    if found.st_size > LARGEST_MODEL:
        raise ExportError(f"{path} is larger than an ONNX file can be (2 GB)", hint="save its weights beside it")


def graph_inputs(model: onnx.ModelProto) -> list[TensorSpec]:
    """The inputs that must be fed. A named axis keeps its name, an unnamed dynamic one is called after its place."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [_spec(value) for value in model.graph.input if value.name not in constants]


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}_{i}"
        for i, dim in enumerate(tensor.shape.dim)
    ]
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    except KeyError:
        what = f"input '{value.name}' is no tensor of a type that ONNX knows"
        raise ExportError(what, hint="export the model again with tensors for inputs") from None
    return TensorSpec(name=value.name, dtype=dtype.name, shape=tuple(shape))


def save_model(model: onnx.ModelProto, path: Path) -> Path:
    """Writes `model`, and its weights to `<path>.data` where they are large."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size < EXTERNAL_ABOVE:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=path.name + ".data", size_threshold=INLINE_BELOW)
    return path


def load_graph(path: Path) -> gs.Graph:
    """The graph at `path`; external weights stay in their file until they are asked for."""
    return imported(load_model(path, weights=False), path.parent)


def load_inferred_graph(path: Path) -> gs.Graph:
    """As `load_graph`, with the type and shape of every tensor inferred."""
    model = onnx.shape_inference.infer_shapes(load_model(path, weights=False), data_prop=True)
    return imported(model, path.parent)


def imported(model: onnx.ModelProto, folder: Path) -> gs.Graph:
    """The graph of a model whose external weights lie in `folder`, where they stay.

    graphsurgeon knows BF16 and what is narrower by ONNX's number alone, and prints so to stdout; here every tensor has
    a type of arrays.
    """
    with G_LOGGER.suppress(G_LOGGER.ERROR):
        graph = keep_stored(gs.import_onnx(model), folder)
    for tensor in graph.tensors().values():
        typed = tensor._values if isinstance(tensor, gs.Constant) else tensor
        if isinstance(typed.dtype, int) and typed.dtype:  # 0: not known
            typed.dtype = onnx.helper.tensor_dtype_to_np_dtype(typed.dtype)
    return graph


def _pack(graph: gs.Graph) -> None:
    """Constants in memory that a file holds two to a byte."""
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and isinstance(tensor._values, np.ndarray) and _is_half(tensor._values):
            tensor._values = PackedValues(str(tensor.name), tensor._values)


def _is_half(values: Array) -> bool:
    return int(onnx.helper.np_dtype_to_tensor_dtype(values.dtype)) in HALVES


def save_graph(graph: gs.Graph, path: Path, *, ships: bool = False) -> Path:
    """Writes a graph back as a model; the graph is toposorted and cleaned first.

    Weights that lie in a file stay in one, but for a model that `ships` and is small enough to be one file.
    """
    data = weights_file(path)
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    graph.opset = next((o.version for o in graph.import_domains or () if o.domain in ("", "ai.onnx")), graph.opset)
    graph.import_domains = None
    stored = stored_constants(graph)
    if ships and sum(constant._values.size_in_bytes for constant in stored) < ONE_FILE_BELOW:
        for constant in stored:
            constant.values = constant._values.load()
        stored = []
        data.unlink(missing_ok=True)
    store(stored, data)
    _pack(graph)
    model = gs.export_onnx(graph, do_type_check=False)
    # Of its own file: graphsurgeon writes that of the file that it read, where an opset was older.
    own = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", graph.opset)], True)
    model.ir_version = max(IR_VERSION, own)
    onnx.save(model, path)
    return path
