"""The adapter of every class that has no own: inputs by position, constants within, tensors [batch, ...] out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dsr_export.families.diffusers.general.blocks import Block
from dsr_export.families.diffusers.general.call import Call
from dsr_export.families.diffusers.general.stand_ins import standing_in

PASSED: Mapping[str, Callable[[Tensor], Any]] = {
    "": lambda value: value,
    "list": lambda value: list(value.unbind(1)),
    "layers_first": lambda value: value.transpose(0, 1),
    "frames_as_rows": lambda value: value.flatten(0, 1),
    "rows": lambda value: list(value.unbind(0)),
    "two_as_rows": lambda value: value.reshape(2 * value.shape[0], value.shape[1] // 2, *value.shape[2:]),
    "one_batch": lambda value: [value],
    "alone": lambda value: value[0],
}
"""How a graph's input is handed over, by the name that a recipe gives."""


class GeneralDenoiser(nn.Module):
    """`forward` takes the graph's inputs in the order of `call.given`, and returns a tensor or a tuple of them.

    A class that takes no batch is called row by row. `registers` [R, D] are those that were inserted, and `blocks` what
    was found to insert them or replacement: each with the rows that its streams have then.
    """

    registers: Tensor | None

    def __init__(self, transformer: nn.Module, call: Call) -> None:
        super().__init__()
        self.transformer: Any = transformer
        self.call = call
        self.replacements = nn.ModuleDict()
        self.register_buffer("registers", None)
        self.blocks: tuple[Block, ...] = ()
        self._fixed: dict[str, tuple[list[Any], Any]] = {}
        for name, value in call.fixed.items():
            leaves, shape = pytree.tree_flatten(value)
            self._fixed[name] = [self._kept(f"{name}_{i}", leaf) for i, leaf in enumerate(leaves)], shape

    def forward(self, *values: Tensor) -> Any:
        check: Any = torch._check
        for value in values:
            check(value.shape[0] == values[0].shape[0])  # tells torch.export that all batches are one
        if self.call.one_by_one:
            made = [_tensors(self._called([value[i : i + 1] for value in values])) for i in range(values[0].shape[0])]
            return _one_or_all([torch.cat(rows) for rows in zip(*made, strict=True)], self.call)
        return _one_or_all(_tensors(self._called(values)), self.call)

    def _called(self, values: Any) -> Any:
        given = dict(zip(self.call.given, values, strict=True))
        passed = {name: self._passed(name, value) for name, value in given.items()}
        rows = values[0].shape[0]
        fixed = {name: self._value(name, rows) for name in self.call.fixed}
        plain = {"return_dict": False} if self.call.takes_return_dict else {}
        with standing_in(self.transformer):
            return self.transformer(**passed, **fixed, **plain)

    def _passed(self, name: str, value: Tensor) -> Any:
        form = self.call.given[name].passed
        return value.expand(self.call.cells) if form == "each_cell" else PASSED[form](value)

    def _value(self, name: str, rows: int) -> Any:
        leaves, shape = self._fixed[name]
        values = [getattr(self, leaf) if isinstance(leaf, _Buffer) else leaf for leaf in leaves]
        values = [leaf(rows) if callable(leaf) else leaf for leaf in values]
        if name in self.call.rows:
            values = [value.expand(rows, *value.shape[1:]) for value in values]
        return pytree.tree_unflatten(values, shape)

    def _kept(self, name: str, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        self.register_buffer(f"fixed_{name}", single(leaf), persistent=False)
        return _Buffer(f"fixed_{name}")


class _Buffer(str):
    """The name of a buffer that holds a leaf of a constant."""

    __slots__ = ()


def single(value: Tensor) -> Tensor:
    """FP64 as FP32, complex numbers likewise: what the reference is computed in."""
    narrower = {torch.float64: torch.float32, torch.complex128: torch.complex64}
    return value.to(narrower.get(value.dtype, value.dtype))


def _tensors(made: Any) -> list[Tensor]:
    """What the transformer returned, each with its batch axis: a list holds a tensor for each row."""
    parts = made if isinstance(made, tuple) else (made,)
    return [torch.stack(part) if isinstance(part, list) else part for part in parts if part is not None]


def _one_or_all(values: list[Tensor], call: Call) -> Any:
    if call.returned == "rows_as_frames":
        values = [value.reshape(-1, call.frames, *value.shape[1:]) for value in values]
    return values[0] if len(values) == 1 else tuple(values)
