"""Initialisers side by side, one tensor in memory at a time: a model of gigabytes needs no more than its largest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from dsr_export.bundle.manifest import FileEntry
from dsr_export.parity.decibels import IDENTICAL_DB, decibels
from graphs.precisions import HELD
from graphs.quantize.formats import FORMATS
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
CHUNK = 1 << 22  # elements turned into FP64 at a time
_TYPED = re.compile(rf"\.({'|'.join(onnx.TensorProto.DataType.Name(held).lower() for held in HELD)})$")
"""What typing puts behind a weight's name."""


@dataclass(frozen=True, kw_only=True)
class WeightChange:
    """One tensor that differs. `snr_db` is that of B against A; `problem` says why there are no figures."""

    name: str
    a: str
    b: str
    max_abs: float | None = None
    snr_db: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class WeightFile:
    """A graph without its weights, and where they are; `files` tells equal data files without reading them."""

    model: onnx.ModelProto
    folder: Path
    files: Mapping[str, FileEntry]

    def tensors(self) -> dict[str, onnx.TensorProto]:
        """By the name of the weight: typing writes the half copy of `w` as `w.float16`, which is the same weight."""
        given = {tensor.name: tensor for tensor in self.model.graph.initializer}
        plain = Counter(_plain(name) for name in given)
        return {_plain(name) if plain[_plain(name)] == 1 else name: tensor for name, tensor in given.items()}

    def values(self, tensor: onnx.TensorProto) -> Array:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return StoredValues(tensor, self.folder).load()
        return np.asarray(numpy_helper.to_array(tensor))

    def place(self, tensor: onnx.TensorProto) -> tuple[str, ...] | None:
        """Checksum of the data file and the span within; None for a tensor in the model itself."""
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return None
        entries = {entry.key: entry.value for entry in tensor.external_data}
        held = self.files.get(entries.get("location", ""))
        return None if held is None else (held.sha256, entries.get("offset", "0"), entries.get("length", ""))


def weight_difference(a: WeightFile, b: WeightFile) -> dict[str, Any]:
    """`unchanged` (count), `added` and `removed` (names), and `changed`, the worst first."""
    left, right = a.tensors(), b.tensors()
    common = sorted(left.keys() & right.keys())
    changes = [found for name in common if (found := _change(name, a, left[name], b, right[name])) is not None]
    return {
        "unchanged": len(common) - len(changes),
        "added": sorted(right.keys() - left.keys()),
        "removed": sorted(left.keys() - right.keys()),
        "changed": [asdict(change) for change in sorted(changes, key=_badness)],
    }


def _badness(change: WeightChange) -> tuple[float, str]:
    return (-IDENTICAL_DB if change.snr_db is None else change.snr_db, change.name)


def _change(
    name: str, a: WeightFile, left: onnx.TensorProto, b: WeightFile, right: onnx.TensorProto
) -> WeightChange | None:
    change = WeightChange(name=name, a=_form(left), b=_form(right))
    same_form = change.a == change.b
    place = a.place(left)
    if same_form and place is not None and place == b.place(right):
        return None
    if list(left.dims) != list(right.dims):
        return replace(change, problem="another shape")
    if left.data_type != right.data_type and {left.data_type, right.data_type} & FORMATS.keys():
        return replace(change, problem="codes of another format")  # which stand for other numbers
    try:
        truth, other = (np.ascontiguousarray(values).reshape(-1) for values in (a.values(left), b.values(right)))
    except ValueError as error:  # a data file shorter than the tensor that it should hold
        return replace(change, problem=f"cannot be read: {error}")
    if same_form and np.array_equal(truth.view(np.uint8), other.view(np.uint8)):
        return None
    return _measured(change, truth, other)


def _measured(change: WeightChange, truth: Array, other: Array) -> WeightChange:
    signal = noise = largest = 0.0
    for start in range(0, truth.size, CHUNK):
        part = truth[start : start + CHUNK].astype(np.float64)
        error = other[start : start + CHUNK].astype(np.float64) - part
        signal, noise = signal + float(np.square(part).sum()), noise + float(np.square(error).sum())
        largest = max(largest, float(np.abs(error).max()))
    if not np.isfinite(signal + noise):
        return replace(change, problem="NaN or infinite values")
    return replace(change, max_abs=largest, snr_db=float(decibels(signal, noise)))


def _plain(name: str) -> str:
    return _TYPED.sub("", name)


def _form(tensor: onnx.TensorProto) -> str:
    """`float16[384, 96]`."""
    return f"{onnx.TensorProto.DataType.Name(tensor.data_type).lower()}{list(tensor.dims)}"
