"""Values written where a mask holds, as a choice: the exporter finds the positions, whose number depends on data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from dsr_export.tracing.decompositions.picked_values import unpick

_aten = torch.ops.aten
_WRITES = (_aten.index_put.default, _aten.index_put_.default)


def as_choices(program: ExportedProgram) -> ExportedProgram:
    """`program` itself where it writes through no mask, as `y[~mask] = 0` does."""
    if not any(node.target in _WRITES and _has_mask(node) for node in program.graph.nodes):
        return program
    made: ExportedProgram = program.run_decompositions({})
    unpick(made.graph)
    made.graph_module.recompile()
    if not any(node.target in _WRITES and _has_mask(node) for node in made.graph.nodes):
        return made
    chosen: ExportedProgram = made.run_decompositions({_aten.index_put.default: _chosen})
    return chosen


def _has_mask(node: fx.Node) -> bool:
    return any(each is not None and each.meta["val"].dtype == torch.bool for each in node.args[1])  # type: ignore[union-attr]


def _chosen(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """x [*lead, *axes, *rest] with `values` where the one mask [*axes] holds, whatever their number.

    `values` broadcast to [*lead, any number, *rest], and that number must be 1: other values belong to positions.
    """
    lead = next((i for i, each in enumerate(indices) if each is not None), 0)
    mask, others = indices[lead], [*indices[:lead], *indices[lead + 1 :]]
    if mask is None or mask.dtype != torch.bool or any(each is not None for each in others):
        return NotImplemented
    rest = x.ndim - lead - mask.ndim
    if values.ndim > rest:
        count = values.shape[values.ndim - rest - 1]
        if not isinstance(count, int) or count != 1:  # a symbolic one is the number of places where a mask holds
            return NotImplemented
        front, back = values.shape[: values.ndim - rest - 1], values.shape[values.ndim - rest :]
        values = values.reshape([*front, *[1] * mask.ndim, *back])
    if accumulate:
        values = x + values
    return torch.where(mask.reshape([*mask.shape, *[1] * rest]), values, x)
