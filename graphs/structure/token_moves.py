"""Ops that move tokens without computing: where each puts the token axis. See `graphs.structure.token_axes`."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphs.constants import constant_value
from graphs.structure.flow import axis_of
from graphs.structure.token_axis import CannotFollow, Marks, TokenAxis, argument, moved, without


def reshape(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    found: dict[int, TokenAxis] = {}
    for axis, mark in marks[0].items():
        at, there = moved(node.inputs[0].shape, axis, mark, node.outputs[0].shape, tokens)
        if found.setdefault(at, there) is not there:
            raise CannotFollow("it folds two token axes into one")
    return found


def transpose(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    order = node.attrs.get("perm") or list(range(len(node.inputs[0].shape)))[::-1]
    return {at: marks[0][axis] for at, axis in enumerate(order) if axis in marks[0]}


def gather(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    axis, indices = axis_of(node, len(node.inputs[0].shape), 0), node.inputs[1]
    if marks[1]:
        raise CannotFollow("it takes the tokens for indices")
    if axis in marks[0]:
        rows = constant_value(indices)
        if rows is None or rows.min() < 0 or marks[0][axis] != TokenAxis():
            raise CannotFollow("it takes rows that are not counted from the first token")
    step = len(indices.shape) - 1
    return {at + step * (at > axis): mark for at, mark in marks[0].items() if at != axis}


def slice(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    starts, ends, axes = (argument(node, i, name) for i, name in ((1, "starts"), (2, "ends"), (3, "axes")))
    rank = len(node.inputs[0].shape)
    if axes is None and ends is None:
        raise CannotFollow("what it cuts depends on data")
    along = [axis % rank for axis in (range(len(ends or ())) if axes is None else axes)]
    for i, axis in enumerate(along):
        fixed = starts is not None and ends is not None and 0 <= starts[i] < ends[i] < tokens
        if axis in marks[0] and not (fixed and marks[0][axis] == TokenAxis()):
            raise CannotFollow("it cuts rows off that are not counted from the first token")
    return {axis: mark for axis, mark in marks[0].items() if axis not in along}


def squeeze(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    shape, given = node.inputs[0].shape, argument(node, 1, "axes")
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    return without(marks[0], ones if given is None else [axis % len(shape) for axis in given])


def unsqueeze(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    rank = len(node.outputs[0].shape)
    added = {axis % rank for axis in argument(node, 1, "axes") or ()}
    kept = [axis for axis in range(rank) if axis not in added]
    return {kept[axis]: mark for axis, mark in marks[0].items()}
