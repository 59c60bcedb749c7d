"""The token axis of a tensor: which of its axes holds the tokens, folded together with others or not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphs.constants import constant_value
from graphs.structure.flow import describe


@dataclass(frozen=True)
class TokenAxis:
    """An axis of size `outer * N * inner`, in row-major order: a Reshape may fold others into it.

    `cut` rows are gone in front: where a prefix (CLS, registers) goes another way than the patches.
    """

    outer: int = 1
    inner: int = 1
    cut: int = 0

    def size(self, tokens: int) -> int:
        return self.outer * (tokens - self.cut) * self.inner

    @property
    def whole(self) -> bool:
        """Whether nothing is folded into it."""
        return self.outer == self.inner == 1


Marks = Mapping[int, TokenAxis]
"""Axis, counted from the front -> what of it is tokens."""


class CannotFollow(Exception):
    """Why an op does not take another number of tokens."""


def moved(
    before: Sequence[int], axis: int, mark: TokenAxis, after: Sequence[int], tokens: int
) -> tuple[int, TokenAxis]:
    """Where a row-major reshape from `before` to `after` puts a token axis. Raises `CannotFollow`."""
    outer, inner = math.prod(before[:axis]) * mark.outer, mark.inner * math.prod(before[axis + 1 :])
    tokens -= mark.cut
    for i, size in enumerate(after):
        left, right = math.prod(after[:i]), math.prod(after[i + 1 :])
        if outer % left == 0 and size == outer // left * tokens * (inner // right):
            return i, TokenAxis(outer // left, inner // right, mark.cut)
    raise CannotFollow(f"it breaks the token axis up, from {describe(before)} to {describe(after)}")


def without(marks: Marks, axes: Sequence[int]) -> Marks:
    """Counted again once `axes` are gone."""
    return {axis - sum(gone < axis for gone in axes): mark for axis, mark in marks.items()}


def argument(node: gs.Node, place: int, name: str) -> list[int] | None:
    """An input where the opset has one, else an attribute; None where it is left out or computed."""
    given: Any = node.attrs.get(name)
    if len(node.inputs) > place and not node.inputs[place].is_empty():
        given = constant_value(node.inputs[place])
    return None if given is None else [int(each) for each in np.ravel(given)]
