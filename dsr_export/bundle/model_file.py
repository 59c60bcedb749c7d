"""What `model.onnx` of a bundle may refer to: weights in files of the bundle, and standard operators.

Checked here because runtimes differ: the TensorRT-RTX parser, for one, follows links and paths that others refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dsr_export.errors import ExportError

if TYPE_CHECKING:
    import onnx

LARGEST_MODEL = 2**31 - 1  # bytes; protobuf's own limit

_HINT = "build the bundle again, and do not run this one if it came from someone else"
_KEYS = frozenset({"location", "offset", "length", "checksum"})


def check_model_file(path: Path, sizes: Mapping[str, int]) -> None:
    """Checks an ONNX model whose folder holds files of `sizes` (name -> bytes), without loading external weights.

    Raises:
        ExportError: it is no ONNX; external weights lie outside the listed files; or a node, which is named, belongs
            to a domain other than the standard one.
    """
    from graphs.checks import STANDARD_DOMAINS

    if path.stat().st_size > LARGEST_MODEL:
        raise ExportError(f"{path} is larger than an ONNX file can be", hint=_HINT)
    nodes, tensors = _parts(_load(path))
    for node in nodes:
        _check_text(path, node)
        if node.domain not in STANDARD_DOMAINS:
            kind = f"{node.domain}.{node.op_type}"
            raise ExportError(f"{path}: node {node.name[:80]!r} is {kind[:80]!r}, no standard op", hint=_HINT)
    for tensor in tensors:
        if tensor.external_data or tensor.data_location == tensor.EXTERNAL:
            _check_external(tensor, path, sizes)


def _load(path: Path) -> onnx.ModelProto:
    from graphs.files import load_model

    model = load_model(path, weights=False)
    if not model.graph.node:  # protobuf takes an empty file for an empty model
        raise ExportError(f"{path} is no ONNX model, or one without nodes", hint=_HINT)
    return model


def _check_text(path: Path, node: onnx.NodeProto) -> None:
    """protobuf hands out bytes where a string is no UTF-8, and everything that reads names would meet them."""
    for text in (node.name, node.op_type, node.domain, *node.input, *node.output):
        if not isinstance(text, str):
            raise ExportError(f"{path} has a node with {text[:40]!r} in it, which is no text", hint=_HINT)


def _check_external(tensor: onnx.TensorProto, path: Path, sizes: Mapping[str, int]) -> None:
    where = f"{path}: tensor {tensor.name[:80]!r}"
    # str(): protobuf hands out bytes where a string is no UTF-8, and their form names no file
    entries = {str(entry.key): str(entry.value) for entry in tensor.external_data}
    if len(entries) != len(tensor.external_data) or not entries.keys() <= _KEYS:
        raise ExportError(f"{where} has unknown or repeated external data fields", hint=_HINT)
    location = entries.get("location", "")
    if "/" in location or location not in sizes:
        raise ExportError(f"{where} takes its data from {location[:80]!r}, no file of the bundle", hint=_HINT)
    offset, length = _count(entries.get("offset", "0"), where), _count(entries.get("length", "0"), where)
    if offset + length > sizes[location]:
        span = f"bytes {offset} to {offset + length} of {location}"
        raise ExportError(f"{where} takes {span}, which has {sizes[location]} bytes", hint=_HINT)


def _count(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ExportError(f"{where} has the external data offset or length {text[:40]!r}", hint=_HINT)
    return int(text)


def _parts(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Every node and every tensor, those of subgraphs, functions and attributes too."""
    graphs: list[onnx.GraphProto] = [model.graph]
    for training in model.training_info:
        graphs += [training.initialization, training.algorithm]
    nodes: list[onnx.NodeProto] = [node for function in model.functions for node in function.node]
    attributes = [default for function in model.functions for default in function.attribute_proto]
    tensors: list[onnx.TensorProto] = []
    attributes += [attribute for node in nodes for attribute in node.attribute]
    while graphs or attributes:
        if graphs:
            graph = graphs.pop()
            nodes += graph.node
            attributes += [attribute for node in graph.node for attribute in node.attribute]
            tensors += [*graph.initializer, *_dense(graph.sparse_initializer)]
        else:
            attribute = attributes.pop()
            graphs += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
            tensors += [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
            sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            tensors += _dense([*sparse, *attribute.sparse_tensors])
    return nodes, tensors


def _dense(sparse: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for each in sparse:
        yield from (each.values, each.indices)
