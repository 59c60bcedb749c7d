"""Choices between booleans -> ONNX And, Or and Not: ONNX Runtime has no Where of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnx_ir import DataType
from onnxscript import opset20
from onnxscript.function_libs.torch_lib.ops.core import aten_masked_fill, aten_where

_aten = torch.ops.aten
op: Any = opset20  # OPSET of `tracing`


def choice_translations() -> dict[Any, Callable[..., Any]]:
    """torch op -> its translation."""
    return {
        _aten.where.self: _where,
        _aten.masked_fill.Scalar: _filled,
        _aten.masked_fill.Tensor: _filled_from,
    }


def _where(condition, self, other):  # type: ignore[no-untyped-def]  # the names are torch's
    return _chosen(condition, self, other) if self.dtype == DataType.BOOL else aten_where(condition, self, other)


def _filled(self, mask, value):  # type: ignore[no-untyped-def]
    if self.dtype != DataType.BOOL:
        return aten_masked_fill(self, mask, value)
    return op.Or(self, mask) if value else op.And(self, op.Not(mask))


def _filled_from(self, mask, value):  # type: ignore[no-untyped-def]
    if self.dtype != DataType.BOOL:
        return aten_masked_fill(self, mask, value)
    return _chosen(mask, value if value.dtype == DataType.BOOL else op.Cast(value, to=DataType.BOOL), self)


def _chosen(mask: Any, yes: Any, no: Any) -> Any:
    return op.Or(op.And(mask, yes), op.And(op.Not(mask), no))
