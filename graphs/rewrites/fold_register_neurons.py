"""`fc2(dsr.ShiftRegisterNeurons(a))` -> `fc2'(a)`, with a correction of row 0 and of the register rows behind its bias.

The listed columns I of `a` [B, N + R, H] meet zeroed rows of fc2's weight W [H, D], so that `a` is neither masked nor
copied. What those columns still contribute is added (m: the signed maximum of a[:, :, I], one scalar per image):

    mode "zero":  row 0 (never quieted)  a[:, 0, I] @ W[I]        register row r  m * scale_r * sum(W[I])
    mode "same":  (W stays as it is)                              register row r  (m * scale_r - a[:, r, I]) @ W[I]

Equal in real arithmetic, so to float32 rounding here; but an infinite activation in a quieted cell makes its row NaN
(inf * 0), where the masks of `lower_shift_register_neurons` write 0.
Constraints: one consumer, a MatMul or a Gemm between two Reshapes, with a constant weight. Other sites, and the modes
that need statistics of ordinary rows, are left to the masks. Source: arXiv 2506.08010.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, redirect
from graphs.constants import constant_value
from graphs.names import site_of
from graphs.outside_readers import only_reader
from graphs.rewrite import Match, Miss
from graphs.rewrites.lower_shift_register_neurons import LowerShiftRegisterNeurons, signed_max

Array = npt.NDArray[Any]
FOLDED_MODES = ("zero", "same")


@dataclass(frozen=True)
class FoldRegisterNeurons:
    name: str = "fold_register_neurons"

    def match(self, node: gs.Node) -> Match | Miss | None:
        basic = LowerShiftRegisterNeurons().match(node)  # the same demands on shapes and indices
        if not isinstance(basic, Match):
            return basic
        mode, rows = node.attrs["normal_values"], basic.found["rows"]
        if mode not in FOLDED_MODES:
            return Miss(f"normal values {mode!r} depend on ordinary rows", node.name)
        if rows <= int(node.attrs["registers"]):
            return Miss(f"{rows} rows hold no token beside {node.attrs['registers']} registers", node.name)
        return _second_gemm(node, rows, basic.found["width"])

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, gemm, tail = match.node, match.found["gemm"], match.found["tail"]
        build = NodeBuilder(graph, "lower", site_of(node))
        neurons, axis = sorted(set(node.attrs["neurons"])), int(gemm.attrs.get("transB", 0))
        weight = constant_value(gemm.inputs[1])
        assert weight is not None  # as matched
        listed = np.take(weight, neurons, axis=axis) * np.float32(gemm.attrs.get("alpha", 1.0))
        first, last = _corrections(build, node, neurons, listed.T if axis else listed)
        if node.attrs["normal_values"] == "zero":
            gemm.inputs[1] = build.constant("weight", _without(weight, neurons, axis))
        redirect(node.outputs[0], node.inputs[0], graph, list(node.outputs[0].outputs))
        node.outputs.clear()
        _correct(build, graph, tail.outputs[0], first, last, int(node.attrs["registers"]))


def _second_gemm(node: gs.Node, rows: int, width: int) -> Match | Miss:
    """fc2, and the last node of it: the one that makes [B, N + R, D], bias included."""
    reader = only_reader(node.outputs[0])
    flat = reader is not None and reader.op == "Reshape"
    gemm = only_reader(reader.outputs[0]) if reader is not None and flat else reader
    if gemm is None or gemm.op != ("Gemm" if flat else "MatMul"):
        return Miss("its only reader is no MatMul, and no Reshape before a Gemm", node.name)
    shape = _constant_shape(gemm.inputs[1])
    if len(shape) != 2 or shape[int(gemm.attrs.get("transB", 0))] != width or gemm.attrs.get("transA", 0):
        return Miss(f"{gemm.name} has no constant weight for {width} neurons", node.name)
    tail = _tail(gemm)
    made = tail.outputs[0].shape
    if flat and (tail.op != "Reshape" or made is None or len(made) != 3 or made[1] != rows):
        return Miss(f"{gemm.name} is not followed by a Reshape to [batch, {rows}, D]", node.name)
    return Match(node, {"gemm": gemm, "tail": tail})


def _tail(gemm: gs.Node) -> gs.Node:
    after = only_reader(gemm.outputs[0])
    if after is None:
        return gemm
    if gemm.op == "Gemm":
        return after if after.op == "Reshape" else gemm
    return after if after.op == "Add" and any(len(_constant_shape(tensor)) == 1 for tensor in after.inputs) else gemm


def _constant_shape(tensor: gs.Tensor) -> tuple[int, ...]:
    """Empty for what is no constant. A stored weight isn't read for its shape."""
    if isinstance(tensor, gs.Constant):
        return tuple(tensor.shape)
    value = constant_value(tensor)
    return () if value is None else value.shape


def _corrections(
    build: NodeBuilder, node: gs.Node, neurons: list[int], rows: Array
) -> tuple[gs.Variable | None, gs.Variable]:
    """What is added to row 0, [B, 1, D] (None: nothing), and to the register rows, [B, R, D]; `rows` is W[I]."""
    registers = int(node.attrs["registers"])
    scale = np.broadcast_to(np.asarray(node.attrs["scale"], np.float32), (registers,))[:, None]  # [R, 1]
    weight = build.constant("listed_weight", rows.astype(np.float32))
    listed = build.op("Gather", [node.inputs[0], build.ints("neurons", *neurons)], "listed", axis=2)  # [B, N + R, I]
    peak = signed_max(build, listed)  # [B, 1, 1]
    if node.attrs["normal_values"] == "zero":
        total = rows.sum(axis=0, dtype=np.float64).astype(np.float32)  # [D]
        row = build.op("MatMul", [_rows(build, listed, "first_listed", 0, 1), weight], "row_correction")
        return row, build.op("Mul", [peak, build.constant("register_weight", scale * total)], "register_correction")
    written = build.op("Mul", [peak, build.constant("scale", scale)], "written")  # [B, R, 1]
    step = build.op("Sub", [written, _rows(build, listed, "register_listed", -registers, _END)], "step")  # [B, R, I]
    return None, build.op("MatMul", [step, weight], "register_correction")


def _correct(
    build: NodeBuilder,
    graph: gs.Graph,
    whole: gs.Variable,
    first: gs.Variable | None,
    last: gs.Variable,
    registers: int,
) -> None:
    """Adds to the first and last rows of `whole`; the rows between are copied.

    In ONNX Runtime slices and a Concat cost no more than a full-size Add of padded corrections (0.1 ms for 257 x 768),
    and they keep a correction that is not finite out of ordinary rows.
    """
    readers, start = list(whole.outputs), 0 if first is None else 1
    parts = [_rows(build, whole, "ordinary_rows", start, -registers)]
    if first is not None:
        parts.insert(0, build.op("Add", [_rows(build, whole, "first_row", 0, 1), first], "row"))
    parts.append(build.op("Add", [_rows(build, whole, "register_rows", -registers, _END), last], "registers"))
    out = build.op("Concat", parts, "out", axis=1)
    out.dtype, out.shape = whole.dtype, whole.shape
    redirect(whole, out, graph, readers)


_END = int(np.iinfo(np.int64).max)


def _rows(build: NodeBuilder, tokens: gs.Tensor, role: str, start: int, end: int) -> gs.Variable:
    bounds = [build.ints(f"{role}_start", start), build.ints(f"{role}_end", end), build.ints(f"{role}_axis", 1)]
    return build.op("Slice", [tokens, *bounds], role)


def _without(weight: Array, neurons: list[int], axis: int) -> Array:
    """A copy of fc2's weight whose listed neurons (along `axis`) are zero."""
    quiet = weight.copy()
    quiet[(slice(None),) * axis + (neurons,)] = 0
    return quiet
