"""`ArgMax(x @ registers)` -> a weighted sum over the channels for each register, and a chain of comparisons.

The residual kernel in front of a replacement sums squares over the channels of each token anyway; the similarities are
sums over the same channels, which it takes along. The GEMM, its FP32 copy of the tokens and the ArgMax are no launches
any more.
    before  MatMul(x, rows [D, R]) -> [Where(usable, ., -inf)] -> ArgMax
    after   R x (Mul -> ReduceSum) -> R x (Greater -> Where, Max)
Equal to FP32 rounding of the sums; of equal ones the first is taken, as before.
Constraints: constant registers, and no more of them than a kernel has room to sum at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, replace_output
from graphs.constants import constant_value
from graphs.names import is_lowered, own_name, site_of
from graphs.outside_readers import only_reader, take_name
from graphs.rewrite import Match, Miss
from graphs.structure.flow import producer

Array = npt.NDArray[Any]
MOST_REGISTERS = 64


@dataclass(frozen=True)
class SumSimilarities:
    name: str = "sum_similarities"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "ArgMax" or not is_lowered(node.name):
            return None
        maker = producer(node.inputs[0])
        usable = None
        if maker is not None and maker.op == "Where":
            usable, maker = constant_value(maker.inputs[0]), producer(maker.inputs[1])
        rows = constant_value(maker.inputs[1]) if maker is not None and maker.op == "MatMul" else None
        if maker is None or rows is None or rows.ndim != 2 or maker.inputs[0].dtype != np.float32:
            return Miss("it does not choose among products with constant registers in FP32", node.name)
        if only_reader(maker.outputs[0]) is None:
            return Miss(f"{maker.name} is read by others", node.name)
        columns = [i for i in range(rows.shape[1]) if usable is None or usable.reshape(-1)[i]]
        if not columns or len(columns) > MOST_REGISTERS:
            return Miss(f"{len(columns)} registers, where 1 to {MOST_REGISTERS} are summed at once", node.name)
        if node.attrs.get("keepdims", 1) or node.attrs.get("select_last_index", 0):
            return Miss("it keeps its axis, or takes the last of equal ones", node.name)
        return Match(node, {"x": maker.inputs[0], "rows": rows, "columns": columns})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        build = NodeBuilder(graph, "lower", site_of(match.node))
        found = match.found
        best = _best(build, own_name(match.node), found["x"], found["rows"], found["columns"])
        best.dtype, best.shape = np.dtype(np.int64), match.node.outputs[0].shape
        take_name(best, match.node.outputs[0])
        replace_output(match.node, best, graph)


def _best(build: NodeBuilder, own: str, x: gs.Tensor, rows: Array, columns: Sequence[int]) -> gs.Variable:
    """Index [B, N] of the column of `rows` [D, R] whose product with the token is largest."""
    axis = build.ints(f"{own}.channels", 2)
    index = [build.constant(f"{own}.index", np.array([i], np.int64)) for i in columns]
    sums = [_sum(build, own, x, rows[:, i], axis) for i in columns]
    top, best = sums[0], index[0]
    if len(columns) == 1:  # nothing to choose, but for the shape of the tokens
        first = build.op("Less", [top, top], f"{own}.never")
        return build.op("Where", [first, index[0], index[0]], f"{own}.best")
    for total, each in zip(sums[1:], index[1:], strict=True):
        better = build.op("Greater", [total, top], f"{own}.better")
        best = build.op("Where", [better, each, best], f"{own}.best")
        top = build.op("Max", [total, top], f"{own}.top")
    return best


def _sum(build: NodeBuilder, own: str, x: gs.Tensor, row: Array, axis: gs.Tensor) -> gs.Variable:
    weighted = build.op("Mul", [x, build.constant(f"{own}.row", np.ascontiguousarray(row))], f"{own}.weighted")
    return build.op("ReduceSum", [weighted, axis], f"{own}.similarity", keepdims=0)
