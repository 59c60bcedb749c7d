"""Complex tensors of an exported program as pairs of real ones, where the exporter knows an op on real ones only.

The exporter holds a complex tensor [...] as a real one [..., 2], so `view_as_real` and `view_as_complex` cost nothing:
each op is decomposed into `view_as_complex(op(view_as_real(x)))`, with its axes counted from the front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

Op = Callable[..., Any]
_aten = torch.ops.aten


def on_pairs(program: ExportedProgram) -> ExportedProgram:
    """`program` itself where it holds no complex tensor."""
    nodes = [node for node in program.graph.nodes if _is_complex(node.meta.get("val")) or _takes_complex(node)]
    if not nodes:
        return program
    composite = [node.target for node in nodes if isinstance(node.target, OpOverload) and node.target not in _TABLE]
    table = {op: _composed(op) for op in composite} | _TABLE  # `flatten` is a view, `chunk` a split
    made: ExportedProgram = program.run_decompositions(
        {op: _if_complex(decomposed) for op, decomposed in table.items()}
    )
    return made


def _takes_complex(node: fx.Node) -> bool:
    return any(_is_complex(each.meta.get("val")) for each in node.all_input_nodes)


def _is_complex(value: Any) -> bool:
    return any(isinstance(each, Tensor) and each.is_complex() for each in pytree.tree_leaves(value))


def _composed(op: OpOverload) -> Op:
    """`op` by what it consists of: its own kernel, as `op.decompose` comes back to the table."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    if not torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), key):  # type: ignore[no-untyped-call]
        return lambda *_, **__: NotImplemented
    return lambda *args, **kwargs: op._op_dk(key, *args, **kwargs)


def _if_complex(decomposed: Op) -> Op:
    def chosen(*args: Any, **kwargs: Any) -> Any:
        given = pytree.tree_leaves((args, kwargs))
        return decomposed(*args, **kwargs) if _is_complex(given) or any(map(_says_so, given)) else NotImplemented

    return chosen


def _says_so(value: Any) -> bool:
    return isinstance(value, complex) or (isinstance(value, torch.dtype) and value.is_complex)


def _pairs(x: Tensor) -> Tensor:
    """[...] complex, or real, to [..., 2]."""
    if x.is_complex():
        return torch.view_as_real(x.resolve_conj())
    return torch.stack([x, torch.zeros_like(x)], -1)


def _complex(made: Any) -> Any:
    return pytree.tree_map_only(Tensor, torch.view_as_complex, made)


def _structural(op: Op, *, axes: Sequence[int] = (), sizes: int | None = None, end: Sequence[int] = ()) -> Op:
    """An op that moves elements: the arguments at `axes` count axes, that at `sizes` gets `end` for the pair's axis."""

    def decomposed(x: Any, *args: Any, **kwargs: Any) -> Any:
        real = _pairs(x) if isinstance(x, Tensor) else [_pairs(each) for each in x]
        given = list(args)
        for i in axes:
            if i < len(given):
                given[i] = pytree.tree_map(lambda axis: axis - 1 if axis < 0 else axis, given[i])
        if sizes is not None:
            given[sizes] = [*given[sizes], *end]
        return _complex(op(real, *given, **kwargs))

    return decomposed


def _with_default_axis(op: Op, place: int, default: int) -> Op:
    """As `_structural`, where the axis at `place` may be left out."""

    def decomposed(x: Any, *args: Any) -> Any:
        full = args if len(args) > place else (*args, default)
        return _structural(op, axes=(place,))(x, *full)

    return decomposed


def _conjugate(x: Tensor) -> Any:
    """Written out: torch's own is a mark on the tensor, which only a copy of it takes off."""
    real, imaginary = _parts(x)
    return torch.complex(real, -imaginary)


def _permute(x: Tensor, axes: Sequence[int]) -> Any:
    return _complex(_aten.permute.default(_pairs(x), [*(axis % x.ndim for axis in axes), x.ndim]))


def _pad(x: Tensor, pad: Sequence[int], value: float = 0) -> Any:
    return _complex(_aten.constant_pad_nd.default(_pairs(x), [0, 0, *pad], value))


def _gather(x: Tensor, axis: int, index: Tensor) -> Any:
    return _complex(torch.gather(_pairs(x), axis % x.ndim, index.unsqueeze(-1).expand(*index.shape, 2)))


def _where(condition: Tensor, a: Tensor, b: Tensor) -> Any:
    return _complex(torch.where(condition.unsqueeze(-1), _pairs(a), _pairs(b)))


def _put(x: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Any:
    return _complex(_aten.index_put.default(_pairs(x), indices, _pairs(values), accumulate))


def _written(op: Op) -> Op:
    """An op that writes its second tensor into its first, along an axis where its third argument is one."""

    def decomposed(x: Tensor, source: Tensor, *args: Any, **kwargs: Any) -> Any:
        place = [args[0] % x.ndim, *args[1:]] if args and not isinstance(args[0], bool) else list(args)
        return _complex(op(_pairs(x), _pairs(source), *place, **kwargs))

    return decomposed


def _parts(x: Any) -> tuple[Any, Any]:
    if isinstance(x, Tensor):
        pairs = _pairs(x)
        return pairs[..., 0], pairs[..., 1]
    return complex(x).real, complex(x).imag


def _multiplied(a: Any, b: Any) -> Any:
    (x, y), (u, v) = _parts(a), _parts(b)
    return torch.complex(x * u - y * v, x * v + y * u)


def _divided(a: Any, b: Any) -> Any:
    (x, y), (u, v) = _parts(a), _parts(b)
    size = u * u + v * v
    return torch.complex((x * u + y * v) / size, (y * u - x * v) / size)


def _added(a: Any, b: Any, alpha: float = 1) -> Any:
    (x, y), (u, v) = _parts(a), _parts(b)
    return torch.complex(x + u * alpha, y + v * alpha)


def _product(a: Tensor, b: Tensor) -> Any:
    (x, y), (u, v) = _parts(a), _parts(b)
    return torch.complex(x @ u - y @ v, x @ v + y @ u)


def _exponential(x: Tensor) -> Any:
    a, b = _parts(x)
    size = torch.exp(a)
    return torch.complex(size * torch.cos(b), size * torch.sin(b))


def _power(x: Tensor, exponent: Any) -> Any:
    if exponent != int(exponent) or not 1 <= exponent <= 16:
        return NotImplemented
    made = x
    for _ in range(int(exponent) - 1):
        made = _multiplied(made, x)
    return made


def _cast(x: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    kind = dtype or x.dtype
    if not kind.is_complex:  # torch drops the imaginary part, with a warning
        return torch.view_as_real(x.resolve_conj())[..., 0].to(kind)
    return torch.complex(*(part.to(kind.to_real()) for part in _parts(x)))


def _filled(size: Sequence[int], value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    kind = (dtype or torch.complex64).to_real()
    return torch.complex(*(torch.full(size, part, dtype=kind) for part in _parts(value)))


_TABLE: dict[Any, Op] = {
    _aten.unsqueeze.default: _structural(_aten.unsqueeze.default, axes=(0,)),
    _aten.squeeze.dim: _structural(_aten.squeeze.dim, axes=(0,)),
    _aten.squeeze.dims: _structural(_aten.squeeze.dims, axes=(0,)),
    _aten.select.int: _structural(_aten.select.int, axes=(0,)),
    _aten.slice.Tensor: _with_default_axis(_aten.slice.Tensor, 0, 0),
    _aten.split.Tensor: _with_default_axis(_aten.split.Tensor, 1, 0),
    _aten.split_with_sizes.default: _with_default_axis(_aten.split_with_sizes.default, 1, 0),
    _aten.unbind.int: _with_default_axis(_aten.unbind.int, 0, 0),
    _aten.cat.default: _with_default_axis(_aten.cat.default, 0, 0),
    _aten.stack.default: _with_default_axis(_aten.stack.default, 0, 0),
    _aten.flip.default: _structural(_aten.flip.default, axes=(0,)),
    _aten.index_select.default: _structural(_aten.index_select.default, axes=(0,)),
    _aten.sum.dim_IntList: _structural(_aten.sum.dim_IntList, axes=(0,)),
    _aten.mean.dim: _structural(_aten.mean.dim, axes=(0,)),
    _aten.cumsum.default: _structural(_aten.cumsum.default, axes=(0,)),
    _aten.index.Tensor: _structural(_aten.index.Tensor),
    _aten.clone.default: _structural(_aten.clone.default),
    **dict.fromkeys((_aten.alias.default, _aten.detach.default), lambda x: _complex(_pairs(x))),
    _aten._conj.default: _conjugate,
    _aten.neg.default: _structural(_aten.neg.default),
    _aten.view.default: _structural(_aten.view.default, sizes=0, end=(2,)),
    _aten.reshape.default: _structural(_aten.reshape.default, sizes=0, end=(2,)),
    _aten.expand.default: _structural(_aten.expand.default, sizes=0, end=(2,)),
    _aten.repeat.default: _structural(_aten.repeat.default, sizes=0, end=(1,)),
    _aten.permute.default: _permute,
    _aten.constant_pad_nd.default: _pad,
    _aten.gather.default: _gather,
    _aten.where.self: _where,
    _aten.index_put.default: _put,
    _aten.copy.default: _written(_aten.copy.default),
    _aten.slice_scatter.default: _written(_aten.slice_scatter.default),
    _aten.select_scatter.default: _written(_aten.select_scatter.default),
    _aten.zeros_like.default: lambda x, **_: _complex(torch.zeros_like(_pairs(x))),
    _aten.mul.Scalar: _multiplied,
    _aten.mul.Tensor: _multiplied,
    _aten.div.Scalar: _divided,
    _aten.div.Tensor: _divided,
    _aten.add.Scalar: _added,
    _aten.add.Tensor: _added,
    _aten.sub.Scalar: lambda a, b, alpha=1: _added(a, b, -alpha),
    _aten.sub.Tensor: lambda a, b, alpha=1: _added(a, b, -alpha),
    _aten.reciprocal.default: lambda x: _divided(1, x),
    _aten.square.default: lambda x: _multiplied(x, x),
    _aten.mm.default: _product,
    _aten.bmm.default: _product,
    _aten.matmul.default: _product,
    _aten.exp.default: _exponential,
    _aten.pow.Tensor_Scalar: _power,
    _aten._to_copy.default: _cast,
    _aten.full.default: _filled,
    _aten.zeros.default: lambda size, **kind: _filled(size, 0, **kind),
    _aten.ones.default: lambda size, **kind: _filled(size, 1, **kind),
    _aten.new_zeros.default: lambda x, size, **kind: _filled(size, 0, **{"dtype": x.dtype, **kind}),
}
