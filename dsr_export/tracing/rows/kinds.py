"""How an op on the values of one row is computed for all rows at once, where its schema or its tags say how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from dsr_export.tracing.rows.held import Held, is_kept, settled

Rule = Callable[..., Any]
_aten = torch.ops.aten
_AXES = ("dim", "dims", "dim0", "dim1", "start_dim", "end_dim")
_PLACED = (
    *(getattr(_aten, name).default for name in ("index_select", "index_copy", "index_add", "index_reduce")),
    _aten.index_fill.int_Scalar,
    _aten.index_fill.int_Tensor,
)
"""Their `index` is a list of positions along the axis: one that is constant stays one for all rows."""
_GROWING = (_aten.unsqueeze.default, _aten.stack.default)  # their axes are those of the result


class NotByRow(Exception):
    """An op has no form for all rows at once here."""


def as_it_is(op: Any, row: Any, *args: Any, **kwargs: Any) -> Any:
    """An op that knows the batch as its first axis, as convolutions do, or that leaves the shape alone."""
    held = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Held)]
    wide = [each for each in held if each.is_wide]
    if all(each.fits for each in held) or (len(wide) == 1 and wide[0].row == row):
        return op(*plain(args), **plain(kwargs))
    first = args[0]
    if len(wide) != 1 or not isinstance(first, Held) or not first.is_wide:
        raise NotByRow
    if not first.row:
        return op(first.wide, *plain(args[1:]), **plain(kwargs))
    made = op(first.full.flatten(0, 1), *plain(args[1:]), **plain(kwargs))
    return settled(made.reshape([first.batch, *row]), row)


def plain(given: Any) -> Any:
    return pytree.tree_map_only(Held, lambda each: each.wide, given, is_leaf=lambda each: isinstance(each, Held))


def pointwise(op: Any, row: Any, *args: Any, **kwargs: Any) -> Any:
    rank, kept = len(row), is_kept(row)
    return op(*mapped(args, rank, kept), **mapped(kwargs, rank, kept))


def mapped(given: Any, rank: int, kept: bool) -> Any:
    return pytree.tree_map_only(
        Held, lambda each: each.against(rank, kept=kept), given, is_leaf=lambda each: isinstance(each, Held)
    )


def along(op: Any, row: Any, *args: Any, **kwargs: Any) -> Any:
    """An op along axes, which its arguments name: as they are where the batch is none of them, else counted on."""
    bound = _bound(op, args, kwargs)
    if op in _PLACED and not bound["index"].is_wide:
        bound["index"] = bound["index"].wide
    held = [each for each in pytree.tree_leaves(bound, is_leaf=is_held) if is_held(each)]
    rank = len(held[0].row) + (op in _GROWING)
    for name in [name for name in _AXES if name in bound]:
        bound[name] = pytree.tree_map_only(int, lambda axis: axis % max(rank, 1), bound[name])
    named = [axis for name in _AXES if name in bound for axis in pytree.tree_leaves(bound[name])]
    if any(not isinstance(axis, int) for axis in named):
        raise NotByRow  # all axes, where none is named
    out = row[0] if isinstance(row, list) else row
    moved = "dims" in bound and op is _aten.permute.default
    crosses = bound["dims"][0] != 0 if moved else 0 in named
    if all(each.fits for each in held) and not crosses and is_kept(out):
        return _called(op, bound, lambda each: each.lifted)
    for name in [name for name in _AXES if name in bound]:
        bound[name] = pytree.tree_map_only(int, lambda axis: axis + 1, bound[name])
    if moved:
        bound["dims"] = [0, *bound["dims"]]
    made = _called(op, bound, lambda each: each.full)
    if isinstance(row, list):
        return [settled(each, shape) for each, shape in zip(made, row, strict=True)]
    return settled(made, row)


def is_held(value: Any) -> bool:
    return isinstance(value, Held)


def _bound(op: OpOverload, args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments by name, with the defaults of those that name axes."""
    names = [each.name for each in op._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    defaults = {each.name: each.default_value for each in op._schema.arguments if each.has_default_value()}
    return given | {name: defaults[name] for name in _AXES if name in defaults and name not in given}


def _called(op: OpOverload, bound: dict[str, Any], tensor: Callable[[Held], Tensor]) -> Any:
    given = pytree.tree_map_only(Held, tensor, bound, is_leaf=is_held)
    only = {each.name for each in op._schema.arguments if each.kwarg_only}
    order = [each.name for each in op._schema.arguments if each.name not in only]
    defaults = {each.name: each.default_value for each in op._schema.arguments if each.has_default_value()}
    last = max(i for i, name in enumerate(order) if name in given)
    args = [given.get(name, defaults.get(name)) for name in order[: last + 1]]
    return op(*args, **{name: given[name] for name in only if name in given})


def names_axes(op: OpOverload) -> bool:
    """Whether axes are among its arguments."""
    return any(each.name in _AXES for each in op._schema.arguments)
