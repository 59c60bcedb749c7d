"""External data of an ONNX model, checked before a vendor's parser opens it: the TensorRT parsers follow symbolic
links that onnx and ONNX Runtime refuse."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from graphs.errors import ExportError

_HINT = "do not use this model if it came from someone else; else save it again with onnx.save_model"


def check_external_data(model: onnx.ModelProto, folder: Path) -> None:
    """Every external tensor lies in a regular file inside `folder`, reached without a link, and within its bounds.

    Raises:
        ExportError: names the tensor and what is wrong with its location.
    """
    sizes: dict[str, int] = {}
    for tensor in all_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            problem = _problem(tensor, folder, sizes)
            if problem:
                raise ExportError(f"external data of tensor '{tensor.name}': {problem}", hint=_HINT)


def external_files(model: onnx.ModelProto, folder: Path) -> list[Path]:
    """The files that hold external data of a checked model, sorted."""
    external = (tensor for tensor in all_tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL)
    names = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
    return [folder / name for name in sorted(names)]


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initialisers and tensors in attributes, those of nested graphs and local functions included."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _graph_tensors(graph)


def _problem(tensor: onnx.TensorProto, folder: Path, sizes: dict[str, int]) -> str | None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if location not in sizes:
        problem = _location_problem(location, folder)
        if problem:
            return problem
        sizes[location] = (folder / location).stat().st_size
    offset, length = entries.get("offset", "0"), entries.get("length", str(_bytes(tensor)))
    if not (offset.isdecimal() and length.isdecimal()):
        return f"offset {offset!r} and length {length!r} are not numbers"
    if int(offset) + int(length) > sizes[location]:
        return f"ends at byte {int(offset) + int(length)} of '{location}', which has {sizes[location]}"
    return None


def _location_problem(location: str, folder: Path) -> str | None:
    parts = location.split("/")
    if not location.isprintable() or "\\" in location or ":" in location or {"", ".", ".."} & set(parts):
        return f"{location!r} is not a plain path inside the model's folder"
    path = folder
    for part in parts:
        path = path / part
        try:
            mode = os.lstat(path).st_mode
        except OSError as error:
            return f"'{location}' cannot be read: {error.strerror}"
        if stat.S_ISLNK(mode):
            return f"'{path}' is a symbolic link"
    return None if stat.S_ISREG(mode) else f"'{location}' is not a regular file"


def _bytes(tensor: onnx.TensorProto) -> int:
    """The size of a tensor that declares no length; 4-bit types, which pack two elements, count one byte for two."""
    itemsize: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    packed = 2 if onnx.TensorProto.DataType.Name(tensor.data_type).endswith("INT4") else 1
    elements: int = math.prod(tensor.dims)
    return -(-elements * itemsize // packed)
