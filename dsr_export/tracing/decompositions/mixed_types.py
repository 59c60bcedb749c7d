"""Operands in one type where the exporter promotes none: tensors in a list, and integers that a fraction is less of.

A table of rotations is often `einsum(positions, frequencies)` of single positions and double frequencies; ONNX Runtime
does not load what was written for it. Nor does torch itself promote `1.0 - mask` of integers: its pass fails there.
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
    """`program` itself where none of its operands is to be promoted."""
    if not any(_is_to_promote(node) for node in program.graph.nodes):
        return program
    made: ExportedProgram = program.run_decompositions(_TABLE)
    return made


def _is_to_promote(node: fx.Node) -> bool:
    if node.target is _aten.rsub.Scalar:
        return _is_wider(_value(node), _value(node.all_input_nodes[0]))
    return node.target in _PLACE and _is_mixed(_listed(node))


def _value(node: fx.Node) -> Any:
    return node.meta["val"]


def _is_wider(result: Tensor, x: Tensor) -> bool:
    return result.is_floating_point() and not x.is_floating_point()


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


def _less(x: Tensor, other: Any, alpha: Any = 1) -> Any:
    """`other - alpha * x`."""
    common = torch.result_type(x, other)
    return NotImplemented if common == x.dtype else _aten.rsub.Scalar(x.to(common), other, alpha)


_STACKING = ("concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack", "block_diag")
_PLACE: dict[Any, int] = {_aten.einsum.default: 1} | {getattr(_aten, name).default: 0 for name in _STACKING}
"""Op -> which of its arguments is the list."""
_TABLE: dict[Any, Callable[..., Any]] = {
    **{op: partial(_promoted, op) for op in _PLACE},
    _aten.rsub.Scalar: _less,
}
