"""Linear attention of diffusers' deep-compression autoencoders, which computes in FP32 whatever the model's type is.

Its sums of products of queries, keys and values have no softmax to bound them, and its divisor an epsilon of 1e-15.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

METHOD = "apply_linear_attention"
NAME = "linear"


class _Apart(nn.Module):
    """The method of its attention, as a module, so that precision can be told by its name."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self._held = (attention,)  # within a tuple: no submodule of this one

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attention: Any = self._held[0]
        made: Tensor = getattr(type(attention), METHOD)(attention, query, key, value)
        return made


def set_apart(module: nn.Module) -> tuple[str, ...]:
    """Makes a module of the linear attention of each attention in `module` that has one; their names."""
    found = [(name, each) for name, each in module.named_modules() if hasattr(type(each), METHOD)]
    for _, each in found:
        apart = _Apart(each)
        each.add_module(NAME, apart)
        vars(each)[METHOD] = apart  # in front of the class's own
    return tuple(f"{name}.{NAME}" for name, _ in found)
