"""`fc2(dsr.ShiftRegisterNeurons(a))` -> `fc2'(a)` with a correction of row 0 and of the register rows.

The listed columns of `a` [B, N + R, H] meet zeroed rows of fc2's weight W [H, D], so that `a` is neither masked nor
copied. What those columns still contribute is written back behind the bias:

    mode "zero":  row 0 (never quieted)  + a[:, 0, I] @ W[I]      register row r  + m * scale_r * sum(W[I])
    mode "same":  W stays as it is;      register row r  + (m * scale_r - a[:, r, I]) @ W[I]

with m the signed maximum of a[:, :, I]. Equal in real arithmetic, so to float32 rounding here; but a listed activation
that is infinite gives NaN in its row (inf * 0), where the masks of `lower_shift_register_neurons` would write 0.
Constraints: one consumer, a MatMul or a Gemm between two Reshapes, with a constant weight. Any other site, and the modes
that need statistics of ordinary rows, are left to the masks. Source: arXiv 2506.08010.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, replace_output
from graphs.constants import constant_value
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
        build = NodeBuilder(graph, "lower", node.name.rsplit("/", 1)[0])
        neurons = sorted(set(node.attrs["neurons"]))
        weight = constant_value(gemm.inputs[1])
        assert weight is not None  # as matched
        axis = int(gemm.attrs.get("transB", 0))  # of H in the stored weight
        listed_weight = np.take(weight, neurons, axis=axis) * np.float32(gemm.attrs.get("alpha", 1.0))
        rows = (listed_weight.T if axis else listed_weight).astype(np.float32)  # W[I], [I, D]
        corrections = _corrections(build, node, neurons, rows)
        if node.attrs["normal_values"] == "zero":
            gemm.inputs[1] = build.constant("weight", _without(weight, neurons, axis))
        _bypass(node)
        _correct(build, graph, tail, match.found["rows"], corrections)


def _second_gemm(node: gs.Node, rows: int, width: int) -> Match | Miss:
    """The path from the shifted activations to the [B, N + R, D] tensor behind fc2 and its bias."""
    gemm = _only_consumer(node)
    flat = gemm is not None and gemm.op == "Reshape"
    if gemm is not None and flat:
        gemm = _only_consumer(gemm)
    if gemm is None or gemm.op != ("Gemm" if flat else "MatMul"):
        return Miss("its only consumer is no MatMul, or Reshape and Gemm", node.name)
    if gemm.inputs[0].inputs[0] not in (node, *node.o().outputs[0].inputs) or gemm.attrs.get("transA", 0):
        return Miss(f"{gemm.name} does not multiply the activations from the right", node.name)
    weight = constant_value(gemm.inputs[1])
    if weight is None or weight.ndim != 2 or weight.shape[int(gemm.attrs.get("transB", 0))] != width:
        return Miss(f"{gemm.name} has no constant weight of {width} rows", node.name)
    tail = _tail(gemm)
    shape = tail.outputs[0].shape
    if flat and (tail.op != "Reshape" or shape is None or len(shape) != 3 or shape[1] != rows):
        return Miss(f"{gemm.name} is not followed by a Reshape to [batch, {rows}, D]", node.name)
    return Match(node, {"gemm": gemm, "tail": tail, "rows": rows})


def _tail(gemm: gs.Node) -> gs.Node:
    """The last of fc2: the GEMM, its bias Add, or the Reshape behind a Gemm."""
    after = _only_consumer(gemm)
    if after is None:
        return gemm
    if gemm.op == "Gemm":
        return after if after.op == "Reshape" else gemm
    biased = after.op == "Add" and any((value := constant_value(t)) is not None and value.ndim == 1 for t in after.inputs)
    return after if biased else gemm


def _corrections(build: NodeBuilder, node: gs.Node, neurons: list[int], rows: Array) -> list[gs.Variable | None]:
    """What is added to row 0, [B, 1, D] (None: nothing), and to the register rows, [B, R, D]."""
    registers = int(node.attrs["registers"])
    scale = np.broadcast_to(np.asarray(node.attrs["scale"], np.float32), (registers,))[:, None]  # [R, 1]
    weight = build.constant("listed_weight", rows)
    listed = build.op("Gather", [node.inputs[0], build.ints("neurons", *neurons)], "listed", axis=2)  # [B, N + R, I]
    peak = signed_max(build, listed)  # [B, 1, 1]
    if node.attrs["normal_values"] == "zero":
        total = rows.sum(axis=0, dtype=np.float64).astype(np.float32)
        first = build.op("MatMul", [_rows(build, listed, "first_listed", 0, 1), weight], "first_correction")
        return [first, build.op("Mul", [peak, build.constant("register_weight", scale * total)], "register_correction")]
    written = build.op("Mul", [peak, build.constant("scale", scale)], "written")  # [B, R, 1]
    before = _rows(build, listed, "register_listed", -registers, np.iinfo(np.int64).max)
    step = build.op("Sub", [written, before], "step")  # [B, R, I]
    return [None, build.op("MatMul", [step, weight], "register_correction")]


def _correct(
    build: NodeBuilder, graph: gs.Graph, tail: gs.Node, rows: int, corrections: list[gs.Variable | None]
) -> None:
    """Adds `corrections` to the first and last rows of what `tail` makes; the rows between are only copied.

    Measured in ONNX Runtime, slices and a Concat cost as much as one full-size Add of padded corrections, and they
    keep a non-finite correction out of ordinary rows.
    """
    first, last = corrections
    assert last is not None
    whole = tail.outputs[0]
    inner = gs.Variable(f"{whole.name}.uncorrected", whole.dtype, whole.shape)
    start, end = int(first is not None), rows - last_rows
    del inner, start, end, build, graph


def _without(weight: Array, neurons: list[int], axis: int) -> Array:
    quiet = weight.copy()
    quiet[(slice(None),) * axis + (neurons,)] = 0
    return quiet
