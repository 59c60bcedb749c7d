"""`x.mean(1, dtype=...)`, and what else is told a type -> a Cast of `x`, then the op, as PyTorch computes it.

The exporter casts the result: the mean of integers is cut to an integer first, and that of booleans is no ONNX node at
all. A softmax of integers or of booleans likewise. Nor does it know a mean over `dim=None`, which is over all axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset20
from onnxscript.function_libs.torch_lib.ops.core import aten_mean_dim, aten_softmax, aten_sum_dim_IntList
from onnxscript.function_libs.torch_lib.ops.special import aten_special_log_softmax

_aten = torch.ops.aten
op: Any = opset20  # OPSET of `tracing`
_NONE = -1
"""The exporter's number for a type that is not given."""


def wanted_type_translations() -> dict[Any, Callable[..., Any]]:
    """torch op -> its translation."""
    return {
        _aten.mean.dim: _mean,
        _aten.sum.dim_IntList: _sum,
        _aten.softmax.int: _softmax,
        _aten.special_softmax.default: _softmax,
        _aten.log_softmax.int: _log_softmax,
        _aten.special_log_softmax.default: _log_softmax,
    }


def _mean(self, dim=None, keepdim=False, dtype=_NONE):  # type: ignore[no-untyped-def]  # the names are torch's
    x = _cast(self, dtype)
    return aten_mean_dim(x, dim, keepdim) if dim is not None else op.ReduceMean(x, keepdims=keepdim)


def _sum(self, dim=None, keepdim=False, dtype=_NONE):  # type: ignore[no-untyped-def]
    return aten_sum_dim_IntList(_cast(self, dtype), dim, keepdim)


def _softmax(self, dim, dtype=_NONE):  # type: ignore[no-untyped-def]
    return aten_softmax(_cast(self, dtype), dim)


def _log_softmax(self, dim, dtype=_NONE):  # type: ignore[no-untyped-def]
    return aten_special_log_softmax(_cast(self, dtype), dim)


def _cast(x: Any, dtype: int | None) -> Any:
    if dtype in (None, _NONE):
        return x
    made = op.Cast(x, to=dtype)
    made.shape = x.shape  # the exporter's own translations look whether there are axes
    return made
