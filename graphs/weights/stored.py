"""Weights that stay in their file: a graph of gigabytes is rewritten without reading them.

A stage that leaves the weights alone links its data file to that of the stage before; one that changes their type
writes a new file, one tensor in memory at a time.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphs.weights.packed import packed, packed_size, unpacked

Array = npt.NDArray[Any]
ALIGNMENT = 4096  # runtimes map the file; a page boundary lets them use it in place


class StoredValues(LazyValues):  # type: ignore[misc]
    """Values of a constant that lie in a data file in `folder`.

    When read they are divided by `divisor`, where there is one, cut to the `part` of the last axis, and converted to
    the ONNX type `elem_type`. A divisor broadcasts against the whole.
    """

    def __init__(
        self,
        tensor: onnx.TensorProto,
        folder: Path,
        elem_type: int | None = None,
        divisor: Array | None = None,
        part: slice | None = None,
    ) -> None:
        self.source, self.folder, self.divisor, self.part = tensor, folder, divisor, part
        dims = list(tensor.dims) if part is None else [*tensor.dims[:-1], len(range(tensor.dims[-1])[part])]
        described = onnx.TensorProto(name=tensor.name, dims=dims, data_type=elem_type or tensor.data_type)
        described.external_data.extend(tensor.external_data)
        described.data_location = onnx.TensorProto.EXTERNAL
        # Not by graphsurgeon, which knows BF16 and what is narrower by ONNX's number alone, and prints so.
        self.tensor, self.shape = described, tuple(int(size) for size in dims)
        self.dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(described.data_type))
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    @property
    def file(self) -> Path:
        location = next(entry.value for entry in self.source.external_data if entry.key == "location")
        return self.folder / str(location)

    @property
    def size_in_bytes(self) -> int:
        """Of the values as they are read."""
        return packed_size(math.prod(self.tensor.dims), self.tensor.data_type)

    @property
    def converted(self) -> bool:
        return self.tensor.data_type != self.source.data_type or self.divisor is not None or self.part is not None

    def load(self) -> Array:
        # Not by onnx, which refuses a data file that has several links, as those of the stage cache have.
        entries = {entry.key: entry.value for entry in self.source.external_data}
        kind, count = self.source.data_type, math.prod(self.source.dims)
        raw = np.fromfile(self.file, np.uint8, count=packed_size(count, kind), offset=int(entries.get("offset", 0)))
        values = unpacked(raw, kind, count).reshape(tuple(self.source.dims))
        if self.divisor is not None:
            values = values / self.divisor
        if self.part is not None:
            values = values[..., self.part]
        wanted = onnx.helper.tensor_dtype_to_np_dtype(self.tensor.data_type)
        return np.asarray(values.astype(wanted, copy=False))

    def as_type(self, elem_type: int) -> StoredValues:
        """The same values in another type; nothing is read."""
        return StoredValues(self.source, self.folder, elem_type, self.divisor, self.part)

    def columns(self, part: slice) -> StoredValues:
        """Those of the last axis that `part` takes, of values that are whole; nothing is read."""
        assert self.part is None
        return StoredValues(self.source, self.folder, self.tensor.data_type, self.divisor, part)

    def divided(self, divisor: Array) -> StoredValues:
        """The same values over `divisor`, which broadcasts against them; nothing is read."""
        whole = divisor if self.divisor is None else self.divisor * divisor
        return StoredValues(self.source, self.folder, self.tensor.data_type, whole, self.part)


def keep_stored(graph: gs.Graph, folder: Path) -> gs.Graph:
    """Makes the constants of a graph that was loaded without its external data read it from `folder` when asked."""
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and isinstance(tensor._values, LazyValues):
            proto = tensor._values.tensor
            if proto.data_location == onnx.TensorProto.EXTERNAL:
                tensor._values = StoredValues(proto, folder)
                tensor.data_location = None  # graphsurgeon would keep it for values that replace these
    return graph


def stored_constants(graph: gs.Graph) -> list[gs.Constant]:
    """The constants whose values are still in a file, in a fixed order."""
    found = [t for t in graph.tensors().values() if isinstance(t, gs.Constant) and isinstance(t._values, StoredValues)]
    return sorted(found, key=lambda constant: str(constant.name))


def store(constants: Sequence[gs.Constant], data: Path) -> None:
    """Puts the values of `constants` into the file `data` and points them there: by a link where nothing changed."""
    if not constants:
        return
    files = {constant._values.file for constant in constants}
    if len(files) == 1 and not any(constant._values.converted for constant in constants):
        _link(files.pop(), data)
        for constant in constants:
            _point(constant._values, location=data.name)
        return
    with data.open("wb") as stream:
        for constant in constants:
            stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
            values = packed(constant._values.load())
            _point(constant._values, location=data.name, offset=stream.tell(), length=len(values))
            stream.write(values)


def _link(source: Path, target: Path) -> None:
    """A hard link: entries of the stage cache are never written to again. A copy where the file system has none."""
    if target.exists() and target.samefile(source):
        return
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _point(values: StoredValues, **entries: str | int) -> None:
    """Where they lie in the new file. What is not given is as in their own, whatever they were written to before."""
    kept = {entry.key: entry.value for entry in values.source.external_data} | {k: str(v) for k, v in entries.items()}
    described = values.tensor
    del described.external_data[:]
    for key in ("location", "offset", "length"):
        if key in kept:
            described.external_data.add(key=key, value=kept[key])
