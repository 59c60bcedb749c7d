"""Values that a mask picks, changed one by one and written back where it picked them, as values of every element.

`y[mask] *= s` reads as many values as the mask is true for, a number that depends on data. Where they come back to the
places that they are from, the same is computed of all elements, and the mask chooses afterwards.

    before  index_put(y, [mask], f(index(x, [mask])))
    after   where(mask, f(x), y)
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

_aten = torch.ops.aten
_SIZES = (_aten.sym_size.int, _aten._assert_scalar.default, _aten.sym_constrain_range_for_size.default)
_COMPARED = (operator.ge, operator.le, operator.eq, operator.gt, operator.lt, _aten._assert_tensor_metadata.default)


def unpick(graph: fx.Graph) -> None:
    """Rewrites, in place, each such write of a functional graph whose every node has its value in `meta`."""
    for node in list(graph.nodes):
        if node.target is _aten.index_put.default and len(node.args) == 3:
            _rewrite(graph, node)
    for node in reversed(list(graph.nodes)):
        if node.target is _aten.index.Tensor and _only_sizes_of(node):
            _erase(graph, node)


def _rewrite(graph: fx.Graph, write: fx.Node) -> None:
    arguments: Any = write.args
    target, indices, values = arguments
    if len(indices) != 1 or not _is_picked(values, indices[0]):
        return
    mask = indices[0]
    with graph.inserting_before(write):
        made = _of_all(graph, values, mask)
        for _ in range(target.meta["val"].ndim - mask.meta["val"].ndim):
            mask = _called(graph, write, _aten.unsqueeze.default, mask, -1)
        chosen = _called(graph, write, _aten.where.self, mask, made, target)
    write.replace_all_uses_with(chosen)
    graph.erase_node(write)


def _is_picked(values: Any, mask: Any) -> bool:
    """Whether `values` are computed, element by element, of what `mask` picks; other tensors are the same for all."""
    if not isinstance(values, fx.Node) or mask is None or mask.meta["val"].dtype != torch.bool:
        return False
    if values.target is _aten.index.Tensor:
        picked: Any = values.args[1]
        return len(picked) == 1 and picked[0] is mask
    if not isinstance(values.target, OpOverload) or torch.Tag.pointwise not in values.target.tags:
        return False
    given = [(each, _is_picked(each, mask)) for each in values.all_input_nodes]
    return any(found for _, found in given) and all(found or _is_number(each) for each, found in given)


def _is_number(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.ndim == 0


def _of_all(graph: fx.Graph, values: fx.Node, mask: fx.Node) -> fx.Node:
    if values.target is _aten.index.Tensor:
        return values.args[0]  # type: ignore[return-value]
    args, kwargs = fx.map_arg(
        (values.args, values.kwargs), lambda each: each if _is_number(each) else _of_all(graph, each, mask)
    )
    return _called(graph, values, values.target, *args, **kwargs)


def _called(graph: fx.Graph, like: fx.Node, op: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A call at the place of `like` in the user's code."""
    node = graph.call_function(op, args, kwargs)
    given, named = fx.map_arg((args, kwargs), lambda each: each.meta["val"])
    fake = next(each for each in torch.utils._pytree.tree_leaves((given, named)) if isinstance(each, Tensor))
    with fake.fake_mode:  # type: ignore[attr-defined]
        node.meta = {**like.meta, "val": op(*given, **named)}
    return node


def _only_sizes_of(node: fx.Node) -> bool:
    """Whether nothing but assertions about its size, and values that nobody uses, hang on `node`."""
    allowed = (*_SIZES, *_COMPARED)
    return all((user.target in allowed or _is_elementwise(user)) and _only_sizes_of(user) for user in node.users)


def _is_elementwise(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and torch.Tag.pointwise in node.target.tags


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)
