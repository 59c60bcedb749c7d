"""External data of an ONNX model, checked before a vendor's parser opens it: the TensorRT parsers follow symbolic
links that onnx and ONNX Runtime refuse."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from graphs.errors import ExportError
from graphs.foreign.model_parts import model_parts

_KEYS = frozenset({"location", "offset", "length", "checksum"})
_HINT = "do not use this model if it came from someone else; else save it again with onnx.save_model"


@dataclass(frozen=True)
class Span:
    """Where a tensor's data lies. `length` is None where the file does not say."""

    location: str
    offset: int
    length: int | None


def check_external_data(model: onnx.ModelProto, folder: Path) -> None:
    """Every external tensor lies in a regular file inside `folder`, reached without a link, and within its bounds.

    Raises:
        ExportError: names the tensor and what is wrong with its location.
    """
    sizes: dict[str, int] = {}
    for tensor in _external(model):
        span = data_span(tensor, f"external data of tensor '{tensor.name}'")
        problem = _problem(tensor, span, folder, sizes)
        if problem:
            raise ExportError(f"external data of tensor '{tensor.name}': {problem}", hint=_HINT)


def external_files(model: onnx.ModelProto, folder: Path) -> list[Path]:
    """The files that hold external data of a checked model, sorted."""
    names = {data_span(tensor, "external data").location for tensor in _external(model)}
    return [folder / name for name in sorted(names)]


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether any reader would look for its data in a file: some go by the entries, others by the location's kind."""
    return bool(tensor.external_data) or tensor.data_location == onnx.TensorProto.EXTERNAL


def data_span(tensor: onnx.TensorProto, where: str) -> Span:
    """What the entries of an external tensor say, each key once: readers differ in which of two they take.

    Raises:
        ExportError: unknown or repeated keys, or an offset or length that is no number; it begins with `where`.
    """
    # str(): protobuf hands out bytes where a string is no UTF-8, and their form names no file
    entries = {str(entry.key): str(entry.value) for entry in tensor.external_data}
    if len(entries) != len(tensor.external_data) or not entries.keys() <= _KEYS:
        raise ExportError(f"{where} has unknown or repeated external data fields", hint=_HINT)
    offset, length = entries.get("offset", "0"), entries.get("length")
    return Span(entries.get("location", ""), _count(offset, where), None if length is None else _count(length, where))


def _count(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ExportError(f"{where} has the offset or length {text[:40]!r}, which are not numbers", hint=_HINT)
    return int(text)


def _external(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    return (tensor for tensor in model_parts(model).tensors if is_external(tensor))


def _problem(tensor: onnx.TensorProto, span: Span, folder: Path, sizes: dict[str, int]) -> str | None:
    if span.location not in sizes:
        problem = _location_problem(span.location, folder)
        if problem:
            return problem
        sizes[span.location] = (folder / span.location).stat().st_size
    needed = stored_bytes(tensor)
    end = span.offset + (needed if span.length is None else span.length)
    if end > sizes[span.location]:
        return f"ends at byte {end} of '{span.location}', which has {sizes[span.location]}"
    if span.length not in (None, needed):
        return f"has {span.length} bytes, where its shape {list(tensor.dims)} takes {needed}"
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


def stored_bytes(tensor: onnx.TensorProto) -> int:
    """The bytes of a tensor of a known type; of 4-bit types, which pack two elements, one byte for two."""
    itemsize: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    packed = 2 if onnx.TensorProto.DataType.Name(tensor.data_type).endswith(("INT4", "FLOAT4E2M1")) else 1
    elements: int = math.prod(tensor.dims)
    return -(-elements * itemsize // packed)
