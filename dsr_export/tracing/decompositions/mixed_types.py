"""Lists of tensors in one type: the exporter promotes operands of arithmetic, and neither einsum's nor those stacked.

A table of rotations is often `einsum(positions, frequencies)` of single positions and double frequencies; ONNX Runtime
does not load what was written for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

_aten = torch.ops.aten


def in_one_type(program: ExportedProgram) -> ExportedProgram:
    """`program` itself where none of its lists holds tensors of several types."""
    if not any(node.target in _TABLE and _is_mixed(_listed(node)) for node in program.graph.nodes):
        return program
    made: ExportedProgram = program.run_decompositions(_TABLE)
    return made


def _listed(node: fx.Node) -> list[Tensor]:
    tensors: Any = node.args[_PLACE[node.target]]
    return [each.meta["val"] for each in tensors]


def _is_mixed(tensors: Sequence[Tensor]) -> bool:
    return len({each.dtype for each in tensors}) > 1


def _promoted(op: Any, *args: Any, **kwargs: Any) -> Any:
    place = _PLACE[op]
    tensors = args[place]
    if not _is_mixed(tensors):
        return NotImplemented
    common = reduce(torch.promote_types, (each.dtype for each in tensors))
    return op(*args[:place], [each.to(common) for each in tensors], *args[place + 1 :], **kwargs)


_STACKING = ("stack", "hstack", "vstack", "dstack", "column_stack", "block_diag")
_PLACE: dict[Any, int] = {_aten.einsum.default: 1} | {getattr(_aten, name).default: 0 for name in _STACKING}
"""Op -> which of its arguments is the list."""
_TABLE: dict[Any, Callable[..., Any]] = {op: partial(_promoted, op) for op in _PLACE}
