"""The program of one row -> the program of any number of rows.

Code that counts its batch in Python (`[0] * x.shape[0]`, a list per row, a loop over rows) has no program of any batch,
but it has one of a single row. Here it is run once more, op by op, with all rows at once in the place of the one. What
mixes rows, or has no such form, is refused by the op, and by the caller who compares the numbers with the module's.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx import traceback as fx_traceback
from torch.utils import _pytree as pytree

from dsr_export.tracing.forward_modes import one_batch
from dsr_export.tracing.probing import Limits
from dsr_export.tracing.rows.held import Held, is_wide, rest
from dsr_export.tracing.rows.kinds import NotByRow
from dsr_export.tracing.rows.rules import rule_of

_aten = torch.ops.aten
_CHECKS = (
    _aten._assert_tensor_metadata.default,
    _aten._assert_scalar.default,
    _aten.sym_constrain_range_for_size.default,
)


def widened(program: ExportedProgram, rows: list[Tensor], limits: Limits) -> ExportedProgram:
    """`program` of one row, for inputs `rows` [n, ...] and batches within `limits`.

    Raises:
        NotByRow: an op that has no form for all rows at once.
    """
    plain = program.run_decompositions({})
    axis = {0: Dim.AUTO(min=limits[0], max=limits[1])}
    shapes = {"values": tuple(axis for _ in rows)}
    computed = _Computed(plain)
    with one_batch(computed):
        return torch.export.export(computed, tuple(rows), dynamic_shapes=shapes, strict=False)


class _Computed(nn.Module):
    """`program` under the names that its weights have, with all rows at once."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        graph = program.module(check_guards=False)
        self._modules, self._parameters, self._buffers = graph._modules, graph._parameters, graph._buffers
        self.__dict__["run"] = graph, program.call_spec.out_spec

    def forward(self, *values: Tensor) -> Any:
        graph, spec = self.__dict__["run"]
        with fx_traceback.preserve_node_meta():
            made = _AllRows(graph, values[0].shape[0]).run(*values, enable_io_processing=False)
        return pytree.tree_unflatten(pytree.tree_leaves(made), spec)


class _AllRows(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, batch: Any) -> None:
        super().__init__(graph)
        self.batch = batch

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        return super().run_node(n)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return None  # the guards of the one row

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in _CHECKS:
            return None
        if target is operator.getitem or not any(is_wide(each) for each in pytree.tree_leaves((args, kwargs))):
            return super().call_function(target, args, kwargs)
        held_args, held_kwargs = fx.map_arg((self.node.args, self.node.kwargs), self._held)
        row = pytree.tree_map_only(Tensor, lambda each: tuple(each.shape), self.node.meta["val"])
        row = list(row) if isinstance(self.node.meta["val"], list | tuple) else row
        made = rule_of(target)(target, row, *held_args, **held_kwargs)
        return self._checked(made, row)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        return [self._whole(node) for node in self.node.args[0]]  # type: ignore[union-attr]

    def _whole(self, node: Any) -> Any:
        held = self._held(node)
        if not isinstance(held, Held) or held.row[:1] != (1,):
            raise NotByRow
        return held.lifted

    def _held(self, node: fx.Node) -> Any:
        value = self.env[node]
        return Held(value, _shape(node, value), self.batch) if isinstance(value, Tensor) else value

    def _checked(self, made: Any, row: Any) -> Any:
        shapes = row if isinstance(row, list) else [row]
        for each, shape in zip(made if isinstance(row, list) else [made], shapes, strict=True):
            if is_wide(each):
                right = each.shape[0].node.expr == self.batch.node.expr and list(each.shape[1:]) == rest(shape)
            else:
                right = tuple(each.shape) == shape
            if not right:
                raise NotByRow
        return made


def _shape(node: fx.Node, value: Tensor) -> tuple[int, ...]:
    """Of one row; a constant has no other."""
    known = node.meta.get("val")
    return tuple(value.shape) if not isinstance(known, Tensor) else tuple(known.shape)
