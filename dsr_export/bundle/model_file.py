"""What a graph of a bundle may refer to: weights in files of the bundle, and standard operators.

What ONNX Runtime alone runs may have a few operators of its own.

Checked here because runtimes differ: the TensorRT-RTX parser, for one, follows links and paths that others refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dsr_export.errors import ExportError

if TYPE_CHECKING:
    import onnx

LARGEST_MODEL = 2**31 - 1  # bytes; protobuf's own limit

_HINT = "build the bundle again, and do not run this one if it came from someone else"


def check_model_file(path: Path, sizes: Mapping[str, int], *, own: bool = False) -> None:
    """Checks an ONNX model whose folder holds files of `sizes` (name -> bytes), without loading external weights.

    `own` allows the operators of ONNX Runtime's that our rewrites make.

    Raises:
        ExportError: it is no ONNX; external weights lie outside the listed files; a node, which is named, belongs to
            a domain other than the standard one; or running it would take too much, or for ever.
    """
    from graphs.foreign.external_data import is_external
    from graphs.foreign.model_parts import model_parts
    from graphs.foreign.opened import check_runnable
    from graphs.stage_specs import is_known

    if path.stat().st_size > LARGEST_MODEL:
        raise ExportError(f"{path} is larger than an ONNX file can be", hint=_HINT)
    model = _load(path)
    parts = model_parts(model)
    for node in parts.nodes:
        _check_text(path, node)
        if not is_known(node, own=own):
            kind = f"{node.domain}.{node.op_type}"
            raise ExportError(f"{path}: node {node.name[:80]!r} is {kind[:80]!r}, no standard op", hint=_HINT)
    for tensor in parts.tensors:
        if is_external(tensor):
            _check_external(tensor, path, sizes)
    check_runnable(model, path)


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
    from graphs.foreign.external_data import data_span

    where = f"{path}: tensor {tensor.name[:80]!r}"
    span = data_span(tensor, where)
    if "/" in span.location or span.location not in sizes:
        raise ExportError(f"{where} takes its data from {span.location[:80]!r}, no file of the bundle", hint=_HINT)
    end = span.offset + (span.length or 0)
    if end > sizes[span.location]:
        taken = f"bytes {span.offset} to {end} of {span.location}"
        raise ExportError(f"{where} takes {taken}, which has {sizes[span.location]} bytes", hint=_HINT)
