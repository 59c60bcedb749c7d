"""Ops that move tokens without computing: where each puts the token axis. See `graphs.structure.token_axes`."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphs.constants import constant_value
from graphs.structure.flow import axis_of
from graphs.structure.token_axis import CannotFollow, Marks, TokenAxis, argument, moved, without

ENDLESS = 2**31 - 1
"""What exporters write as the end of a slice that has none; they use this, or the largest of 64 bits."""


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
    steps = argument(node, 4, "steps")
    found = {axis: mark for axis, mark in marks[0].items() if axis not in along}
    for i, axis in enumerate(along):
        mark = marks[0].get(axis)
        if mark is None:
            continue
        if starts is None or ends is None or starts[i] < 0 or not mark.whole or (steps and steps[i] != 1):
            raise CannotFollow("it cuts rows off that are not counted from the first token")
        if ends[i] >= ENDLESS or ends[i] == mark.size(tokens):
            found[axis] = TokenAxis(cut=mark.cut + starts[i])
        elif not starts[i] < ends[i] < tokens - mark.cut:
            raise CannotFollow("it cuts rows off that are not counted from the first token")
    return found


def split(node: gs.Node, marks: Sequence[Marks], tokens: int) -> list[Marks]:
    """Of each output. Along the tokens the first ones are rows counted from the first token, the last has the rest.

    Raises CannotFollow where the sizes are not given, or where what is folded into the tokens is cut too.
    """
    axis = axis_of(node, len(node.inputs[0].shape), 0)
    if axis not in marks[0]:
        return [marks[0]] * len(node.outputs)
    mark, sizes = marks[0][axis], argument(node, 1, "split")
    if sizes is None or not mark.whole:
        raise CannotFollow("it splits the tokens")
    rest = {at: other for at, other in marks[0].items() if at != axis}
    last = TokenAxis(cut=mark.cut + sum(sizes[:-1]))
    return [*([rest] * (len(sizes) - 1)), {**rest, axis: last}]


def concat(node: gs.Node, marks: Sequence[Marks], tokens: int, others: Marks) -> Marks:
    """Rows that were cut off in front come back in front; `others` are the marks along the other axes."""
    axis = axis_of(node, len(node.outputs[0].shape), 0)
    *front, last = marks
    rows = sum(int(tensor.shape[axis]) for tensor in node.inputs[:-1])
    if axis not in last or any(axis in its for its in front) or not last[axis].whole or rows > last[axis].cut:
        raise CannotFollow("it joins other rows to the tokens")
    return {**others, axis: TokenAxis(cut=last[axis].cut - rows)}


def ends_with_the_tokens(node: gs.Node, marks: Sequence[Marks], tokens: int) -> list[int] | None:
    """All ends of a Slice along the tokens that ends with them, that one as -1; None where it ends elsewhere."""
    ends, axes = argument(node, 2, "ends"), argument(node, 3, "axes")
    if ends is None:
        return None
    rank = len(node.inputs[0].shape)
    along = [axis % rank for axis in (range(len(ends)) if axes is None else axes)]
    last = [axis in marks[0] and end == marks[0][axis].size(tokens) for axis, end in zip(along, ends, strict=True)]
    return [-1 if at else end for at, end in zip(last, ends, strict=True)] if any(last) else None


def squeeze(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    shape, given = node.inputs[0].shape, argument(node, 1, "axes")
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    return without(marks[0], ones if given is None else [axis % len(shape) for axis in given])


def unsqueeze(node: gs.Node, marks: Sequence[Marks], tokens: int) -> Marks:
    rank = len(node.outputs[0].shape)
    added = {axis % rank for axis in argument(node, 1, "axes") or ()}
    kept = [axis for axis in range(rank) if axis not in added]
    return {kept[axis]: mark for axis, mark in marks[0].items()}
