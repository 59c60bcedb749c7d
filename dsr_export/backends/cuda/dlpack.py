"""DLPack's structures through ctypes: tensors are handed on by their address, and no framework is imported.

Source: dlpack.h, version 0.8 (the capsule `dltensor`), which torch, CuPy, JAX and numpy all read and write.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dsr_export.errors import ExportError

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13  # DLDeviceType
_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # numpy's kind -> DLDataTypeCode
_FRESH, _USED = b"dltensor", b"used_dltensor"


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("type", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


_NewCapsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_Pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_IsValid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_SetName = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_new_capsule = _NewCapsule(("PyCapsule_New", ctypes.pythonapi))
_pointer = _Pointer(("PyCapsule_GetPointer", ctypes.pythonapi))
_is_valid = _IsValid(("PyCapsule_IsValid", ctypes.pythonapi))
_set_name = _SetName(("PyCapsule_SetName", ctypes.pythonapi))

_handed_out: dict[int, tuple[Any, ...]] = {}
"""What a consumer may still read, by the address of its record."""


def _let_go(address: int) -> None:
    _handed_out.pop(address, None)


def _dropped(capsule: int) -> None:
    """Of a capsule that nobody took: a taken one has another name, and its taker calls the deleter."""
    if _is_valid(capsule, _FRESH):
        _let_go(_pointer(capsule, _FRESH))


_delete, _drop = _Deleter(_let_go), ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_dropped)


def exported(
    pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int], *, owner: object
) -> object:
    """A capsule of the memory at `pointer`, contiguous; `owner` is kept until its taker lets go."""
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    kind = _Type(_KINDS[dtype.kind], dtype.itemsize * 8, 1)
    tensor = _Tensor(pointer, _Device(*device), len(shape), kind, sizes, None, 0)
    record = _Managed(tensor, None, _delete)
    address = ctypes.addressof(record)
    _handed_out[address] = (record, sizes, owner)
    return _new_capsule(address, _FRESH, ctypes.cast(_drop, ctypes.c_void_p))


@contextlib.contextmanager
def taken(capsule: object, name: str) -> Iterator[tuple[int, tuple[int, ...], np.dtype[Any]]]:
    """Address, shape and type of a capsule's tensor, valid within the block; then its maker may free it.

    Raises:
        ExportError: no capsule, one that was taken already, a type that numpy has not, or memory with gaps.
    """
    if not _is_valid(id(capsule), _FRESH):
        raise ExportError(f"input '{name}' gives no DLPack capsule", hint="give an array of numpy, torch or CuPy")
    record = ctypes.cast(_pointer(id(capsule), _FRESH), ctypes.POINTER(_Managed)).contents
    _set_name(id(capsule), _USED)
    try:
        tensor = record.tensor
        shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
        if tensor.strides and not _is_contiguous(shape, [tensor.strides[i] for i in range(tensor.ndim)]):
            raise ExportError(f"input '{name}' is not contiguous in memory", hint=f"give {name}.contiguous()")
        yield (tensor.data or 0) + tensor.byte_offset, shape, _numpy_type(tensor.type, name)
    finally:
        _call_deleter(record)


def _call_deleter(record: _Managed) -> None:
    deleter: Callable[[int], None] | None = record.deleter or None
    if deleter is not None:
        deleter(ctypes.addressof(record))


def _is_contiguous(shape: tuple[int, ...], strides: list[int]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _numpy_type(kind: _Type, name: str) -> np.dtype[Any]:
    letter = next((letter for letter, code in _KINDS.items() if code == kind.code), None)
    if letter is None or kind.lanes != 1 or kind.bits % 8:
        raise ExportError(f"input '{name}' is of a type that numpy has not", hint="give it as float32 or float16")
    return np.dtype(f"{letter}{kind.bits // 8}")
