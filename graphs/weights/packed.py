"""Codes of four bits: a byte each in memory, two to a byte in a file, the first in the lower half, as ONNX has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx_graphsurgeon.ir.tensor import LazyValues

Array = npt.NDArray[Any]
HALVES = frozenset({onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1})
"""ONNX's element types of four bits."""


def packed_size(count: int, elem_type: int) -> int:
    """Bytes of so many values in a file."""
    if elem_type in HALVES:
        return -(-count // 2)
    return count * int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).itemsize)


def packed(values: Array) -> bytes | memoryview:
    """The values as they stand in a file."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if _type(values.dtype) not in HALVES:
        return flat.view(np.uint8).data if flat.size else b""
    codes = flat.view(np.uint8) & 0x0F
    codes = np.append(codes, np.zeros(codes.size % 2, np.uint8))
    return np.asarray(codes[::2] | (codes[1::2] << 4), np.uint8).tobytes()


def unpacked(raw: Array, elem_type: int, count: int) -> Array:
    """So many values of the bytes [n] uint8 of a file, flat."""
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    if elem_type not in HALVES:
        return raw.view(kind)
    codes = np.stack([raw & 0x0F, raw >> 4], axis=1).reshape(-1)[:count]
    if elem_type == onnx.TensorProto.INT4:  # a byte in memory has the sign in all of its upper half
        codes = ((codes ^ 8) - 8).astype(np.uint8)
    return codes.view(kind)


class PackedValues(LazyValues):  # type: ignore[misc]
    """Of a constant in memory, for a library that writes arrays as they lie there."""

    def __init__(self, name: str, values: Array) -> None:
        self.dtype, self.shape, self.nbytes = values.dtype, values.shape, values.size
        self.tensor = onnx.TensorProto(name=name, dims=values.shape, data_type=_type(values.dtype))
        self.tensor.raw_data = bytes(packed(values))

    def load(self) -> Array:
        """The values again."""
        raw = np.frombuffer(self.tensor.raw_data, np.uint8)
        return unpacked(raw, self.tensor.data_type, int(np.prod(self.shape))).reshape(self.shape)


def _type(kind: np.dtype[Any]) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(kind))
