"""PyTorch as another runtime might round: every number that an operation makes is one step of FP32 off.

What a module makes of its inputs then changes by as much as rounding decides of it. Where a norm's epsilon is far below
the rounding of its input, that is all of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

ODD = -1640531527  # 2**32 over the golden ratio: what it multiplies is scattered
PART = 1 << 16  # numbers that a processor's cache holds, with what is made of them on the way
_EXACT = """
clone _to_copy _unsafe_view copy lift_fresh_copy cat stack where index index_select gather take masked_select
masked_fill repeat constant_pad_nd embedding flip roll sort topk slice_scatter select_scatter pixel_shuffle
pixel_unshuffle relu abs neg maximum minimum max min amax amin clamp clamp_min clamp_max full full_like scalar_tensor
arange tril triu
"""
EXACT = frozenset(_EXACT.split())
"""Operations whose numbers are those that went in, or were written down: no runtime rounds them."""


class OtherRounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, what operations make is one step up or down; whole numbers stay what they are.

    Zeros, masks, counts and indices are whole, and so are the huge numbers that stand for minus infinity. Equal
    numbers go the same way: which one, their bits decide. What writes into a tensor is left as it is, as that may be a
    weight.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.is_view or func._schema.is_mutable or func.overloadpacket.__name__ in EXACT:
            return made
        return tree_map_only(Tensor, _stepped, made)


def _stepped(value: Tensor) -> Tensor:
    """`value` a step off, as it lies in memory. In parts: a whole copy for each of these operations would take several
    times the memory of an attention's scores, and most of the time of the run."""
    if value.dtype != torch.float32:
        return value
    order = sorted(range(value.ndim), key=value.stride, reverse=True)
    made = torch.empty_like(value.permute(order), memory_format=torch.contiguous_format)
    for given, part in zip(_parts(value.permute(order)), _parts(made), strict=True):
        bits = given.view(torch.int32)
        way = (bits * ODD).bitwise_right_shift_(16).bitwise_and_(2).sub_(1).add_(bits)
        torch.where(given == given.round(), given, way.view(torch.float32), out=part)
    return made.permute([order.index(axis) for axis in range(value.ndim)])


def _parts(value: Tensor) -> tuple[Tensor, ...]:
    """The numbers of `value` in pieces."""
    return torch.split(value.contiguous().view(-1), PART)
