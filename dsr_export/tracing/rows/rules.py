"""How an op on the values of one row is computed for all rows at once, by the kind that it is of."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from dsr_export.tracing.rows.held import Held, is_kept, rest, settled
from dsr_export.tracing.rows.kinds import NotByRow, Rule, along, as_it_is, is_held, mapped, names_axes, plain, pointwise

_aten = torch.ops.aten


def rule_of(op: Any) -> Rule:
    """Takes the op, its result's shape in one row, and its arguments with `Held` ones among them."""
    if op in _TABLE:
        return _TABLE[op]
    if not isinstance(op, OpOverload):
        raise NotByRow
    if torch.Tag.pointwise in op.tags:
        return pointwise
    return along if names_axes(op) else as_it_is


def _convolved(op: Any, row: Any, x: Held, *args: Any, **kwargs: Any) -> Any:
    """A row may come without a batch of its own, as [C, *picture]."""
    if x.is_wide and len(x.row) == _PICTURES[op] + 1:
        return settled(op(x.full, *plain(args), **plain(kwargs)), row)
    return as_it_is(op, row, x, *args, **kwargs)


def _reshaped(op: Any, row: Any, x: Held, *_: Any, **__: Any) -> Any:
    return x.wide.reshape([x.batch, *rest(row)] if x.is_wide else row)


def _expanded(op: Any, row: Any, x: Held, *_: Any, **__: Any) -> Any:
    return x.against(len(row), kept=is_kept(row)).expand([x.batch, *rest(row)])


def _repeated(op: Any, row: Any, x: Held, counts: Any) -> Any:
    if is_kept(x.row) and len(x.row) == len(counts) and counts[0] == 1:
        return x.wide.repeat(counts)
    spread = x.full.reshape([x.batch, *[1] * (len(counts) - len(x.row)), *x.row])
    return settled(spread.repeat([1, *counts]), row)


def _over_last(op: Any, row: Any, x: Held, *args: Any, **kwargs: Any) -> Any:
    """An op on the last axes, whatever is in front of them."""
    if any(each.is_wide for each in pytree.tree_leaves((args, kwargs), is_leaf=is_held) if is_held(each)):
        raise NotByRow
    last = args[0] if args and isinstance(args[0], list | tuple) else [0]
    if is_kept(x.row) and len(last) < len(x.row):
        return op(x.wide, *plain(args), **plain(kwargs))
    return settled(op(x.full, *plain(args), **plain(kwargs)), row)


def _padded(op: Any, row: Any, x: Held, pad: Any, *args: Any, **kwargs: Any) -> Any:
    if is_kept(x.row) and len(pad) < 2 * len(x.row):
        return op(x.wide, pad, *args, **kwargs)
    return settled(op(x.full, pad, *args, **kwargs), row)


def _product(op: Any, row: Any, a: Held, b: Held) -> Any:
    if len(a.row) < 2 or len(b.row) < 2:
        raise NotByRow
    rank = max(len(a.row), len(b.row))
    if all(each.fits for each in (a, b)) and is_kept(row) and rank > 2:
        return torch.matmul(a.against(rank, kept=True), b.against(rank, kept=True))
    if rank == 2 and not b.is_wide:
        return torch.matmul(a.wide, b.wide)
    left, right = (each.full.reshape([each.batch, *[1] * (rank - len(each.row)), *each.row]) for each in (a, b))
    return settled(torch.matmul(left, right), row)


def _added_product(op: Any, row: Any, c: Held, a: Held, b: Held, *, beta: float = 1, alpha: float = 1) -> Any:
    if (beta, alpha) != (1, 1):
        raise NotByRow
    made = Held(_product(op, row, a, b), tuple(row), a.batch)
    return pointwise(torch.add, row, made, c)


def _attention(op: Any, row: Any, *args: Any, **kwargs: Any) -> Any:
    """Queries, keys and values of any rank; the mask is added to scores of theirs."""
    held = [each for each in args[:3] if isinstance(each, Held)]
    rank, kept = len(held[0].row), all(is_kept(each.row) for each in held)
    if any(len(each.row) != rank for each in held):
        raise NotByRow
    first = [each.lifted if kept else each.full for each in held]
    made = op(*first, *mapped(args[3:], rank, kept), **mapped(kwargs, rank, kept))
    return made if kept else settled(made, row)


def _indexed(op: Any, row: Any, x: Held, indices: Any) -> Any:
    places = [i for i, each in enumerate(indices) if each is not None]
    if not any(indices[i].is_wide for i in places):
        if places != list(range(places[0], places[-1] + 1)):
            raise NotByRow
        if x.fits and places[0] > 0 and is_kept(row):
            return op(x.wide, plain(indices))
        return settled(op(x.full, [None, *plain(indices)]), row)
    if x.is_wide or len(places) > 1:
        raise NotByRow
    place = places[0]
    made = op(x.wide, [*[None] * place, indices[place].full])
    return settled(made.movedim(place, 0), row)


def _embedded(op: Any, row: Any, weight: Held, index: Held, *args: Any, **kwargs: Any) -> Any:
    if weight.is_wide:
        raise NotByRow
    return settled(op(weight.wide, index.full, *args, **kwargs), row)


def _copied(op: Any, row: Any, target: Held, source: Held, *_: Any, **__: Any) -> Any:
    if not source.is_wide:
        return source.wide.to(target.wide.dtype).expand(target.row).clone() if not target.is_wide else _refused()
    return _expanded(op, row, source).to(target.wide.dtype)


def _refused() -> Any:
    raise NotByRow


def _joined(op: Any, row: Any, sequences: Any, batch_first: bool = False, *_: Any, **__: Any) -> Any:
    """Sequences of one length, as all of one row are, are padded by nothing."""
    if len({each.row for each in sequences}) > 1:
        raise NotByRow
    return settled(torch.stack([each.full for each in sequences], 1 if batch_first else 2), row)


def _einsum(op: Any, row: Any, equation: str, tensors: Any, **_: Any) -> Any:
    terms, arrow, out = equation.replace(" ", "").partition("->")
    batch = next(letter for letter in string.ascii_letters if letter not in equation)
    if not arrow:
        raise NotByRow
    named = [batch + term if each.is_wide else term for term, each in zip(terms.split(","), tensors, strict=True)]
    given = [each.full if each.is_wide else each.wide for each in tensors]
    return settled(torch.einsum(f"{','.join(named)}->{batch}{out}", *given), row)


def _written(op: Any, row: Any, x: Held, indices: Any, values: Held, *args: Any) -> Any:
    """Into all rows at once, at the same places in each."""
    places = [i for i, each in enumerate(indices) if each is not None]
    if any(indices[i].is_wide for i in places) or places != list(range(places[0], places[-1] + 1)):
        raise NotByRow
    picked = len(np.broadcast_shapes(*(indices[i].row for i in places))) + len(row) - len(places)
    return settled(op(x.full, [None, *plain(indices)], _against(values, picked), *args), row)


def _against(values: Held, rank: int) -> Any:
    """[batch, 1, ..., *row] of `rank` axes behind the batch; a constant is broadcast as it is."""
    if not values.is_wide:
        return values.wide
    return values.full.reshape([values.batch, *[1] * (rank - len(values.row)), *values.row])


def _made(op: Any, row: Any, *args: Any, **kwargs: Any) -> Any:
    """A new tensor of a given shape, the same for each row; or the first one in the type of another."""
    return op(*plain(args), **plain(kwargs))


_VIEWS = (_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default, _aten.flatten.using_ints)
_LIKE = (_aten.view_as.default, _aten.reshape_as.default)
_MORE_VIEWS = (_aten.unflatten.int, _aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims)
_LAST = (_aten.linear.default, _aten.layer_norm.default, _aten.rms_norm.default, _aten.native_layer_norm.default)
_NEW = (_aten.new_zeros.default, _aten.new_ones.default, _aten.new_full.default, _aten.new_empty.default)
_PICTURES = {
    getattr(_aten, f"{name}{axes}d").default: axes for name in ("conv", "max_pool", "avg_pool") for axes in (1, 2, 3)
} | {getattr(_aten, f"conv{axes}d").padding: axes for axes in (1, 2, 3)}
_TABLE: dict[Any, Rule] = {
    **dict.fromkeys((*_VIEWS, *_MORE_VIEWS, *_LIKE, _aten.unsqueeze.default), _reshaped),
    **dict.fromkeys((_aten.expand.default, _aten.expand_as.default, _aten.broadcast_to.default), _expanded),
    **dict.fromkeys((*_LAST, _aten.view_as_real.default, _aten.view_as_complex.default), _over_last),
    **dict.fromkeys((_aten.constant_pad_nd.default, _aten.pad.default), _padded),
    **dict.fromkeys((_aten.matmul.default, _aten.mm.default, _aten.bmm.default), _product),
    **dict.fromkeys((_aten.addmm.default, _aten.baddbmm.default), _added_product),
    **dict.fromkeys(_PICTURES, _convolved),
    **dict.fromkeys((*_NEW, _aten.type_as.default), _made),
    _aten.repeat.default: _repeated,
    _aten.complex.default: pointwise,
    _aten.copy.default: _copied,
    _aten.einsum.default: _einsum,
    _aten.pad_sequence.default: _joined,
    _aten.scaled_dot_product_attention.default: _attention,
    _aten.index.Tensor: _indexed,
    _aten.index_put.default: _written,
    _aten.embedding.default: _embedded,
}
