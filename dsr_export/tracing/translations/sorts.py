"""Sorts -> one ONNX TopK over the whole axis, whose ties go by the lower index: PyTorch's stable order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnx_ir import DataType
from onnxscript import opset20

_aten = torch.ops.aten
_SORTED = (DataType.FLOAT, DataType.DOUBLE, DataType.INT32, DataType.INT64)  # by ONNX Runtime
op: Any = opset20  # OPSET of `tracing`


def sort_translations() -> dict[Any, Callable[..., Any]]:
    """torch op -> its translation. Without `stable`, PyTorch promises no order of ties, and gets the same one."""
    return {
        _aten.sort.default: _sort,
        _aten.sort.stable: _stable_sort,
    }


def _sort(x, dim=-1, descending=False):  # type: ignore[no-untyped-def]
    return _ordered(x, dim, descending)


def _stable_sort(x, stable=None, dim=-1, descending=False):  # type: ignore[no-untyped-def]
    return _ordered(x, dim, descending)


def _ordered(x: Any, axis: int, largest: bool) -> Any:
    """The values and their positions."""
    if len(x.shape) == 0:
        return op.Identity(x), op.Constant(value_int=0)
    count = op.Shape(x, start=axis, end=axis + 1 if axis != -1 else None)  # a constant, where the size is one
    key = x if x.dtype in _SORTED else op.Cast(x, to=_key_type(x.dtype))
    values, positions = op.TopK(key, count, axis=axis, largest=int(largest), sorted=1)
    return (values if key is x else op.Cast(values, to=x.dtype)), positions


def _key_type(own: DataType) -> DataType:
    """The smallest that holds every value of `own`."""
    return DataType.FLOAT if own.is_floating_point() else DataType.INT32
