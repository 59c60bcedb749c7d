"""The ops of a program that the exporter has no translation for, and what decomposing makes of each.

Source: what `ExportedProgram.run_decompositions` makes of each of these ops; the tests compare both ways.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import SymInt, fx

_aten = torch.ops.aten
Insert = Callable[..., fx.Node]


@dataclass(frozen=True)
class Form:
    """`op(*arguments, **options)`, or `source` itself where there is no op; `shape` is that of `arguments` with sizes.

    `before` inserts what `op` reads, by the given function of an op and its arguments, and returns `arguments`.
    """

    source: fx.Node
    op: Any = None
    arguments: tuple[Any, ...] = ()
    shape: Sequence[Any] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    before: Callable[[Insert], tuple[Any, ...]] | None = None


def _view(node: fx.Node) -> Form | None:
    return _reshaped(node, node.args[1])


def _reshape(node: fx.Node) -> Form | None:
    return Form(_source(node)) if _has_that_shape(node) else _view(node)


def _known_shape(node: fx.Node) -> Form | None:
    shape = list(node.meta["val"].shape)
    return Form(_source(node)) if _has_that_shape(node) else _reshaped(node, shape, shape)


def _reshaped(node: fx.Node, shape: Any, sizes: Sequence[Any] = ()) -> Form | None:
    """Of any memory: a view may follow what was made contiguous. A size of 0 would be taken for the one before."""
    empty = any(size == 0 for size in node.meta["val"].shape if not isinstance(size, SymInt))
    return None if empty else _on_source(node, _aten.reshape.default, shape, sizes=sizes)


def _has_that_shape(node: fx.Node) -> bool:
    before, after = (list(map(str, each.meta["val"].shape)) for each in (_source(node), node))
    return before == after


def _split(node: fx.Node) -> Form | None:
    _, count, *rest = node.args
    axis: Any = rest[0] if rest else node.kwargs.get("dim", 0)
    size = _source(node).meta["val"].shape[axis]
    if isinstance(size, SymInt) or not isinstance(count, int) or size == 0:  # of nothing a chunk is `count` empty parts
        return None
    return _on_source(node, _aten.split.Tensor, -(-size // count), axis)


def _power(node: fx.Node) -> Form:
    return _on_source(node, _aten.pow.Tensor_Scalar, 2)


def _converted(node: fx.Node) -> Form | None:
    """`x.float()` of what is FP32 already is itself; a conversion says the type alone."""
    before, after = (each.meta["val"] for each in (_source(node), node))
    if before.device != after.device:
        return None
    if before.dtype == after.dtype:
        return Form(_source(node))
    return None if _copies(node) else _on_source(node, _aten._to_copy.default, dtype=after.dtype)


def _copies(node: fx.Node) -> bool:
    """Whether more is asked of a conversion than a type: a layout in memory, a copy of what has the type."""
    plain = {name for name, value in node.kwargs.items() if value is not None and value is not False}
    return len(node.args) > 2 or not plain <= {"dtype"}


def _contiguous(node: fx.Node) -> Form:
    copies = not _source(node).meta["val"].is_contiguous()
    return _on_source(node, _aten.clone.default) if copies else Form(_source(node))


def _subtracted_from(node: fx.Node) -> Form:
    x, other, *alpha = node.args
    options = {"alpha": alpha[0]} if alpha else dict(node.kwargs)
    return Form(_source(node), _aten.sub.Tensor, (other, x), options=options)


def _both(node: fx.Node) -> Form:
    return _on_source(node, _aten.bitwise_and.Tensor, node.args[1])


def _either(node: fx.Node) -> Form:
    return _on_source(node, _aten.bitwise_or.Tensor, node.args[1])


def _rms_norm(node: fx.Node) -> Form | None:
    x = _source(node)
    rest: Sequence[Any] = (*node.args[1:], None, None)
    shape, weight, given = rest[:3]
    value = x.meta["val"]
    types = {value.dtype} if weight is None else {value.dtype, weight.meta["val"].dtype}
    if types != {torch.float32} or node.kwargs:
        return None
    epsilon = torch.finfo(value.dtype).eps if given is None else given
    axes = list(range(value.ndim - len(shape), value.ndim))

    def before(insert: Insert) -> tuple[Any, ...]:
        mean = insert(_aten.mean.dim, insert(_aten.pow.Tensor_Scalar, x, 2), axes, True)
        made = insert(_aten.mul.Tensor, x, insert(_aten.rsqrt.default, insert(_aten.add.Scalar, mean, epsilon)))
        return (made if weight is None else insert(_aten.mul.Tensor, made, weight), x)

    return Form(x, _aten.type_as.default, before=before)


def _outer(node: fx.Node) -> Form | None:
    x, other = node.args
    assert isinstance(x, fx.Node)
    (size,) = x.meta["val"].shape
    if isinstance(size, SymInt):
        return None
    return Form(x, _aten.mul.Tensor, before=lambda insert: (insert(_aten.view.default, x, [size, 1]), other))


def _gridded(node: fx.Node) -> Form | None:
    """One of a meshgrid's: what it is made of along an axis, the same along the others."""
    source, place = node.args
    assert isinstance(source, fx.Node) and isinstance(place, int)
    lines: Any = source.args[0]
    sizes = list(node.meta["val"].shape)
    if source.kwargs.get("indexing") != "ij" or any(isinstance(size, SymInt) for size in sizes):
        return None
    shape = [-1 if axis == place else 1 for axis in range(len(sizes))]
    line = lines[place]
    return Form(line, _aten.expand.default, before=lambda insert: (insert(_aten.view.default, line, shape), sizes))


def _same_padding(node: fx.Node) -> Form | None:
    """Of padding by name, where as much of it is on one side as on the other; one image without a batch has none."""
    given: Sequence[Any] = (*node.args, *_CONVOLVED[len(node.args) :])
    x, weight, bias, stride, padding, dilation, groups = given
    spans = [d * (k - 1) for d, k in zip(_pair(dilation), weight.meta["val"].shape[2:], strict=True)]
    uneven = padding == "same" and any(span % 2 for span in spans)
    if node.kwargs or uneven or x.meta["val"].ndim != 4:
        return None
    sides = [span // 2 for span in spans] if padding == "same" else [0, 0]
    arguments = (x, weight, bias, _pair(stride), sides, _pair(dilation), False, [0, 0], groups)
    return Form(_source(node), _aten.convolution.default, arguments)


_CONVOLVED = (None, None, None, [1, 1], "valid", [1, 1], 1)


def _pair(value: Any) -> list[Any]:
    return [value, value] if isinstance(value, int) else [*value] * (2 // len(value))


def _lifted(node: fx.Node) -> Form:
    return _on_source(node, _aten.clone.default)


def _let_go(node: fx.Node) -> Form | None:
    """Of a constant made in passing."""
    source = _source(node)
    return Form(source) if source.target in (_aten.lift_fresh_copy.default, _aten.clone.default) else None


def _not_training(node: fx.Node) -> Form | None:
    trains = node.args[2] if len(node.args) > 2 else node.kwargs.get("train")
    return None if trains else Form(_source(node))


def _on_source(node: fx.Node, op: Any, *arguments: Any, sizes: Sequence[Any] = (), **options: Any) -> Form:
    source = _source(node)
    return Form(source, op, (source, *arguments), sizes, options)


def _source(node: fx.Node) -> fx.Node:
    source = node.args[0] if node.args else node.kwargs["self"]
    assert isinstance(source, fx.Node)
    return source


FORMS: dict[Any, Callable[[fx.Node], Form | None]] = {
    _aten.__and__.Tensor: _both,
    _aten.__or__.Tensor: _either,
    _aten.chunk.default: _split,
    _aten.contiguous.default: _contiguous,
    _aten.conv2d.padding: _same_padding,
    _aten.detach_.default: _let_go,
    _aten.dropout.default: _not_training,
    _aten.flatten.using_ints: _known_shape,
    _aten.lift_fresh_copy.default: _lifted,
    _aten.outer.default: _outer,
    _aten.reshape.default: _reshape,
    _aten.rms_norm.default: _rms_norm,
    _aten.rsub.Scalar: _subtracted_from,
    _aten.square.default: _power,
    _aten.to.device: _converted,
    _aten.to.dtype: _converted,
    _aten.to.dtype_layout: _converted,
    _aten.unflatten.int: _known_shape,
    _aten.view.default: _view,
}
"""Op -> the form that decomposing gives it; None where it has none here."""
GRID = _aten.meshgrid.indexing
"""Whose parts have a form each, and not the whole."""


def form_of(node: fx.Node) -> Callable[[fx.Node], Form | None] | None:
    """What spells out `node`; None where it stays as it is."""
    source = node.args[0] if node.target is operator.getitem else None
    if isinstance(source, fx.Node) and source.target is GRID:
        return _gridded
    return FORMS.get(node.target)
