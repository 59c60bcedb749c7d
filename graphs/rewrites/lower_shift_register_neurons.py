"""`dsr.ShiftRegisterNeurons(a)` -> a signed maximum and two `Where`s over constant masks; no scatter.

Constraints: `a` [B, N + R, H] with static N and H; neuron indices within H. Source: arXiv 2506.08010.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, replace_output
from graphs.names import site_of
from graphs.rewrite import Match, Miss


@dataclass(frozen=True)
class LowerShiftRegisterNeurons:
    name: str = "lower_shift_register_neurons"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "ShiftRegisterNeurons":
            return None
        if node.domain != "dsr":
            return Miss(f"domain is {node.domain!r}, not 'dsr'", node.name)
        shape = node.inputs[0].shape
        if shape is None or len(shape) != 3 or not all(isinstance(dim, int) for dim in shape[1:]):
            return Miss(f"activations need the shape [batch, N, H] with static N and H, found {shape}", node.name)
        outside = [index for index in node.attrs["neurons"] if not 0 <= index < shape[2]]
        if outside:
            return Miss(f"neurons {outside} lie outside the width {shape[2]}", node.name)
        return Match(node, {"rows": shape[1], "width": shape[2]})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, a = match.node, match.node.inputs[0]
        build = NodeBuilder(graph, "lower", site_of(node))
        rows, registers = match.found["rows"], int(node.attrs["registers"])
        columns = np.isin(np.arange(match.found["width"]), node.attrs["neurons"])[None, None]  # [1, 1, H]
        neurons = build.ints("neurons", *sorted(set(node.attrs["neurons"])))
        listed = build.op("Gather", [a, neurons], "listed", axis=2)  # [B, N + R, I]
        written = build.op("Mul", [signed_max(build, listed), _row_scale(build, node, rows)], "written")
        out: gs.Tensor = a
        if node.attrs["normal_values"] != "same":
            ordinary = _cells(build, "ordinary", rows, slice(1, rows - registers), columns)
            out = build.op("Where", [ordinary, _normal(build, a, node, rows, registers), out], "quieted")
        last = _cells(build, "register", rows, slice(rows - registers, rows), columns)
        result = build.op("Where", [last, written, out], "out")
        result.dtype, result.shape = np.dtype(np.float32), node.outputs[0].shape
        replace_output(node, result, graph)


def signed_max(build: NodeBuilder, listed: gs.Tensor) -> gs.Variable:
    """The largest value if its magnitude exceeds the smallest's, else the smallest: [B, 1, 1]."""
    axes = build.ints("axes", 1, 2)
    high = build.op("ReduceMax", [listed, axes], "high", keepdims=1)
    low = build.op("ReduceMin", [listed, axes], "low", keepdims=1)
    higher = build.op("Greater", [build.op("Abs", [high], "high_size"), build.op("Abs", [low], "low_size")], "higher")
    return build.op("Where", [higher, high, low], "signed_max")


def _row_scale(build: NodeBuilder, node: gs.Node, rows: int) -> gs.Constant:
    """The scale of each register row, [1, N + R, 1]; other rows are never read."""
    scale = np.zeros((1, rows, 1), np.float32)
    scale[0, rows - len(node.attrs["scale"]) :, 0] = node.attrs["scale"]
    return build.constant("scale", scale)


def _cells(build: NodeBuilder, role: str, rows: int, chosen: slice, columns: np.ndarray) -> gs.Constant:
    mask = np.zeros((1, rows, columns.shape[2]), bool)
    mask[:, chosen] = columns
    return build.constant(f"{role}_cells", mask)


def _normal(build: NodeBuilder, a: gs.Tensor, node: gs.Node, rows: int, registers: int) -> gs.Tensor:
    """What listed neurons of ordinary rows become, broadcastable to [B, N + R, H]."""
    if node.attrs["normal_values"] == "zero":
        return build.floats("zero", 0.0)
    axis = build.ints("token_axis", 1)
    bounds = [build.ints("first", 1), build.ints("end", rows - registers), axis]
    ordinary = build.op("Slice", [a, *bounds], "ordinary_rows")
    mean = build.op("ReduceMean", [ordinary, axis], "mean", keepdims=1)  # [B, 1, H]
    if node.attrs["normal_values"] == "mean":
        return mean
    offset = build.op("Sub", [ordinary, mean], "offset")
    total = build.op("ReduceSum", [build.op("Mul", [offset, offset], "square"), axis], "squares", keepdims=1)
    freedom = build.floats("freedom", rows - registers - 2)  # unbiased: n - 1
    deviation = build.op("Sqrt", [build.op("Div", [total, freedom], "variance")], "deviation")
    above = build.op("Greater", [a, build.op("Add", [mean, deviation], "limit")], "above")
    return build.op("Where", [above, mean, a], "capped")
