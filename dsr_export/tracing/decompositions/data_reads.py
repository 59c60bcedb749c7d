"""Reads of `x.data`, which a trace loses sight of."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_READ: Any = torch.Tensor.data.__get__  # type: ignore[attr-defined]


class DataAsTensor(TorchFunctionMode):
    """`x.data` as `x.detach()`: the same memory, and the trace sees what is written into it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _READ:
            return args[0].detach()
        return func(*args, **(kwargs or {}))
