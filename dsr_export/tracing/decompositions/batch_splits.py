"""Splits of the batch axis as slices: the exporter writes a Split of unknown size as a sequence, which is wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import SymInt, Tensor, fx
from torch.export import ExportedProgram

_aten = torch.ops.aten


def as_slices(program: ExportedProgram) -> ExportedProgram:
    """`program` itself where it splits no axis of unknown size, as `torch.cat([x, x]).chunk(2)` does."""
    if not any(node.target in _TABLE and _is_symbolic(node) for node in program.graph.nodes):
        return program
    made: ExportedProgram = program.run_decompositions(_TABLE)
    return made


def _is_symbolic(node: fx.Node) -> bool:
    source, size, axis = (*node.args, 0)[:3]
    return isinstance(size, fx.Node) or isinstance(source.meta["val"].shape[axis], SymInt)  # type: ignore[union-attr]


def _sliced(x: Tensor, size: Any, axis: int = 0) -> Any:
    whole = x.shape[axis]
    if not isinstance(whole, SymInt) and not isinstance(size, SymInt):
        return NotImplemented
    count = int((whole + size - 1) // size)  # torch.export has guarded the number of parts
    ends = [*((i + 1) * size for i in range(count - 1)), whole]
    return [_aten.slice.Tensor(x, axis, i * size, end) for i, end in enumerate(ends)]


def _chunked(x: Tensor, count: int, axis: int = 0) -> Any:
    return _sliced(x, (x.shape[axis] + count - 1) // count, axis)


_TABLE = {_aten.split.Tensor: _sliced, _aten.chunk.default: _chunked}
