"""`x[:, index]` -> one ONNX Gather along that axis, where the exporter writes two Transposes around a GatherND.

Gather reads the rows where they lie, and every engine has it. ONNX Runtime 1.31 ends in a segmentation fault at a half
GatherND between Transposes in front of a GEMM, when its optimisers are all on, as they are for whoever opens the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx_ir import DataType
from onnxscript import opset20
from onnxscript.function_libs.torch_lib.ops.core import aten_index

_aten = torch.ops.aten
op: Any = opset20  # OPSET of `tracing`


def gather_translations() -> dict[Any, Callable[..., Any]]:
    """torch op -> its translation."""
    return {_aten.index.Tensor: _index, _aten._unsafe_index.Tensor: _index}


def _index(self, indices):  # type: ignore[no-untyped-def]  # the names are torch's
    return _along_one_axis(self, indices)


def _along_one_axis(x: Any, indices: Sequence[Any]) -> Any:
    """A Gather, whose result has the axes of the index in the place of the one axis; the exporter's own otherwise."""
    used = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(used) != 1 or used[0][1].dtype not in (DataType.INT64, DataType.INT32):
        return aten_index(x, indices)
    axis, index = used[0]
    return op.Gather(x, index, axis=axis)
