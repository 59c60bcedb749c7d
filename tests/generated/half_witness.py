"""What a module makes in half precision at its plainest: every tensor is rounded to FP16 where it is made.

A typed graph keeps in FP32 what would suffer, so it must do at least as well.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tests.generated.random_modules import call


class _Rounded(TorchDispatchMode):
    """Rounds each float result, in place, so that views and in-place calls keep what they share."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return tree_map_only(Tensor, _rounded, made)


def _rounded(value: Tensor) -> Tensor:
    if value.dtype != torch.float32 or value._is_view() or 0 in value.stride():
        return value
    return value.copy_(value.half().float())


def rounded_half(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of `module` by name, weights and all between rounded to FP16; sums inside a call are FP32."""
    rounded = copy.deepcopy(module)
    for weight in [*rounded.parameters(), *rounded.buffers()]:
        if weight.dtype == torch.float32:
            weight.data = weight.data.half().float()
    given = {name: value.clone() for name, value in inputs.items()}
    with torch.no_grad(), _Rounded():
        return call(rounded, given)
