"""What a module makes in a low precision at its plainest: every tensor is rounded where it is made.

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

    def __init__(self, low: torch.dtype) -> None:
        super().__init__()
        self.low = low

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return tree_map_only(Tensor, self._rounded, made)

    def _rounded(self, value: Tensor) -> Tensor:
        if value.dtype != torch.float32 or value._is_view() or 0 in value.stride():
            return value
        return value.copy_(value.to(self.low).float())


def rounded(module: nn.Module, inputs: Mapping[str, Tensor], low: torch.dtype) -> dict[str, Tensor]:
    """The outputs of `module` by name, weights and all between rounded to `low`; sums inside a call are FP32."""
    lowered = copy.deepcopy(module)
    for weight in [*lowered.parameters(), *lowered.buffers()]:
        if weight.dtype == torch.float32:
            weight.data = weight.data.to(low).float()
    given = {name: value.clone() for name, value in inputs.items()}
    with torch.no_grad(), _Rounded(low):
        return call(lowered, given)
