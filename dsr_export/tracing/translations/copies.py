"""`x.copy_(y)` -> y in the type and the shape of x, where the exporter's translation leaves it in a smaller shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset20

_aten = torch.ops.aten
op: Any = opset20  # OPSET of `tracing`


def copy_translations() -> dict[Any, Callable[..., Any]]:
    """torch op -> its translation."""
    return {_aten.copy.default: _copied}


def _copied(self, src, non_blocking=False):  # type: ignore[no-untyped-def]  # the names are torch's
    cast = src if src.dtype == self.dtype else op.Cast(src, to=self.dtype)
    if self.shape is not None and src.shape is not None and self.shape == src.shape:
        return op.Identity(cast)
    return op.Expand(cast, op.Shape(self))
