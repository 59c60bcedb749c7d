"""Constants with an entry per token, and what appended rows have there: no turn of a rotation, no bias of attention.

    Mul(x, cos) + Mul(turned x, sin)   ->   cos with rows of 1, sin with rows of 0
    Add(scores, bias [.., N, N])       ->   bias with rows and columns of 0

Any other table stays what it is, and the walk over the tokens refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.constants import constant_value
from graphs.structure.flow import producer
from graphs.structure.token_axis import Marks

Array = npt.NDArray[Any]
_STEPS = 6  # from a half-turned tensor back to what it was: Concat, Neg, Slice, and reshapes of interleaved pairs


@dataclass(frozen=True)
class Growth:
    """How the constant `tensor` grows: along `axes`, filled with `value`."""

    tensor: gs.Tensor
    axes: Marks
    value: float

    def grown(self, tokens: int, rows: int) -> Array:
        values = constant_value(self.tensor)
        assert values is not None  # as `growth_of` saw
        sizes = {axis: mark.size(tokens + rows) - mark.size(tokens) for axis, mark in self.axes.items()}
        pads = [(0, sizes.get(axis, 0)) for axis in range(values.ndim)]
        return np.pad(values, pads, constant_values=self.value)


def growth_of(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Growth | None:
    """How the constant that `node` adds to tokens, or multiplies them by, grows; None for any other."""
    if node.op not in ("Add", "Mul") or len(node.inputs) != 2 or sum(bool(each) for each in marks) != 1:
        return None
    place = 0 if marks[0] else 1
    moving, table = node.inputs[place], node.inputs[1 - place]
    values = constant_value(table)
    if values is None or moving.shape is None:
        return None
    shift = len(moving.shape) - values.ndim
    axes = {
        axis - shift: mark
        for axis, mark in marks[place].items()
        if axis >= shift and values.shape[axis - shift] == mark.size(tokens) != 1 and mark.whole
    }
    if node.op == "Add":
        attention = sorted(axes) == [values.ndim - 2, values.ndim - 1]
        return Growth(table, axes, 0.0) if attention else None
    value = _turn(node, moving, values) if list(axes) == [values.ndim - 2] else None
    return None if value is None else Growth(table, axes, value)


def _turn(node: gs.Node, moving: gs.Tensor, values: Array) -> float | None:
    """1 where `values` are the cosines of a rotation of `moving`, 0 where they are the sines; None: no rotation."""
    readers = node.outputs[0].outputs
    if len(readers) != 1 or readers[0].op not in ("Add", "Sub"):
        return None
    other = producer(next(each for each in readers[0].inputs if each is not node.outputs[0]))
    if other is None or other.op != "Mul":
        return None
    for mate, table in (other.inputs, other.inputs[::-1]):
        found = constant_value(table)
        if found is None or found.shape != values.shape or not np.allclose(found**2 + values**2, 1, atol=1e-4):
            continue
        if _made_of(mate, moving):
            return 1.0
        if _made_of(moving, mate):
            return 0.0
    return None


def _made_of(tensor: gs.Tensor, origin: gs.Tensor, steps: int = _STEPS) -> bool:
    """Whether `tensor` is `origin` with its channels moved and some of their signs turned."""
    maker = producer(tensor)
    if (
        maker is None
        or steps == 0
        or maker.op
        not in ("Concat", "Neg", "Slice", "Split", "Reshape", "Transpose", "Gather", "Unsqueeze", "Squeeze", "Identity")
    ):
        return False
    return any(each is origin or _made_of(each, origin, steps - 1) for each in maker.inputs)
