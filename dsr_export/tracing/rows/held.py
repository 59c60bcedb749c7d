"""A value of a program of one row, as it is held for all rows at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import SymInt, Tensor


def is_wide(value: Any) -> bool:
    """Whether a tensor has the rows of a batch; the others are constants, the same for each row."""
    return isinstance(value, Tensor) and value.ndim > 0 and isinstance(value.shape[0], SymInt)


def is_kept(row: Sequence[int]) -> bool:
    """Whether a row's own first axis is the batch of one, in whose place the batch goes."""
    return len(row) > 0 and row[0] == 1


def rest(row: Sequence[int]) -> list[int]:
    """The axes behind the batch."""
    return list(row[1:]) if is_kept(row) else list(row)


@dataclass(frozen=True)
class Held:
    """`wide` is [batch, *rest(row)], or a constant [*row], where a row of its own would have the shape `row`."""

    wide: Tensor
    row: tuple[int, ...]
    batch: SymInt

    @property
    def is_wide(self) -> bool:
        return is_wide(self.wide)

    @property
    def fits(self) -> bool:
        """Whether axes are counted alike in `wide` and in a row: the batch in the place of a 1, or a constant."""
        return is_kept(self.row) or not self.is_wide

    @property
    def full(self) -> Tensor:
        """[batch, *row]."""
        return self.wide.reshape([self.batch, *self.row]) if self.is_wide else self._spread()

    @property
    def lifted(self) -> Tensor:
        """[batch, *rest(row)], a constant too."""
        return self.wide if self.is_wide else self._spread().reshape([self.batch, *rest(self.row)])

    def against(self, rank: int, *, kept: bool) -> Tensor:
        """Broadcast by axes as a row would be against one of `rank` axes, whose first is the batch where `kept`."""
        if not self.is_wide or (len(self.row) == rank and is_kept(self.row) == kept):
            return self.wide
        own = list(self.row[1:]) if kept and len(self.row) == rank else list(self.row)
        return self.wide.reshape([self.batch, *[1] * (rank - kept - len(own)), *own])

    def _spread(self) -> Tensor:
        return self.wide.unsqueeze(0).expand(self.batch, *self.row)


def settled(full: Any, row: Sequence[int]) -> Any:
    """[batch, *row] as it is held: [batch, *rest(row)]."""
    return torch.ops.aten.squeeze.dim(full, 1) if is_kept(row) else full
