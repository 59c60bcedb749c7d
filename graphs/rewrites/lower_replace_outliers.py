"""`dsr.ReplaceOutliers(x, registers)` -> norms, a threshold, a mask and one `Where`, unrolled to static rounds.

For `nearest` and `mask` the norms are computed once: a replaced token has its register's constant norm and a fixed
best register, so later rounds act on [B, N] alone. `gate` and `clip` write new values each round and are written out.
Constraints: constant registers, a static number of tokens, a median rank within TopK's limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, replace_output
from graphs.constants import constant_value
from graphs.dsr.outlier_thresholds import Detection, comparable_norms, is_finite, outlier_mask, token_norms
from graphs.dsr.shared_norms import share_mean_squares
from graphs.names import site_of
from graphs.op_limits import TOPK_LARGEST
from graphs.rewrite import Match, Miss

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LowerReplaceOutliers:
    name: str = "lower_replace_outliers"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "ReplaceOutliers":
            return None
        if node.domain != "dsr":
            return Miss(f"domain is {node.domain!r}, not 'dsr'", node.name)
        shape = node.inputs[0].shape
        if shape is None or len(shape) != 3 or not isinstance(shape[1], int):
            return Miss(f"tokens need the shape [batch, N, D] with a static N, found {shape}", node.name)
        weights = [None if t.is_empty() else constant_value(t) for t in node.inputs[1:]]
        if weights[0] is None:
            return Miss("registers are not constant", node.name)
        detection = _detection(node, shape[1])
        if detection.rule == "median" and detection.median_rank > TOPK_LARGEST:
            return Miss(f"the median of {len(detection.counted)} tokens needs TopK > {TOPK_LARGEST}", node.name)
        return Match(node, {"detection": detection, "weights": weights})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, choice = match.node, match.node.attrs["choice"]
        build = NodeBuilder(graph, "lower", site_of(node))
        detection, rounds = match.found["detection"], int(node.attrs["rounds"])
        registers, *gate = (np.asarray(w, np.float32) for w in match.found["weights"] if w is not None)
        if choice == "nearest":
            out = _nearest(build, node, registers, detection, rounds)
        elif choice == "mask":
            out = _mask(build, node.inputs[0], detection, rounds)
        else:
            out = _unrolled(build, node.inputs[0], [registers, *gate], detection, rounds, clip=choice == "clip")
        out.dtype, out.shape = np.dtype(np.float32), node.outputs[0].shape
        replace_output(node, out, graph)


def _detection(node: gs.Node, tokens: int) -> Detection:
    exclude = tuple(sorted({row % tokens for row in node.attrs.get("exclude", ())}))
    return Detection(node.attrs["rule"], float(node.attrs["threshold"]), tokens, exclude)


def _nearest(build: NodeBuilder, node: gs.Node, rows: Array, detection: Detection, rounds: int) -> gs.Variable:
    x, successor = node.inputs[0], successors(rows)
    raw, squares = token_norms(build, x)
    norms, finite = comparable_norms(build, raw, detection)
    best = _best_register(build, x, finite, rows)
    settled = bool((successor == np.arange(len(rows))).all())
    if settled and detection.rule == "absolute":
        rounds = 1  # what was replaced maps to itself and what was not lies within: a second round changes nothing
    row_norms = np.linalg.norm(rows, axis=1).astype(np.float32)
    register_norms = build.constant("register_norms", row_norms)
    ever: gs.Tensor | None = None
    for i in range(rounds):
        mask, _ = outlier_mask(build, norms, detection, finite=i > 0 and bool(np.isfinite(row_norms).all()))
        if ever is not None and not settled:
            moved = build.op("Gather", [build.constant("successors", successor), best], "successor", axis=0)
            best = build.op("Where", [build.op("And", [mask, ever], "again"), moved, best], "best")
        ever = mask if ever is None else build.op("Or", [ever, mask], "ever")
        if i + 1 < rounds:
            replaced = build.op("Gather", [register_norms, best], "replaced_norms", axis=0)
            norms = build.op("Where", [mask, replaced, norms], "norms")
    assert ever is not None  # rounds >= 1 by the op's schema
    chosen = build.op("Gather", [build.constant("registers", rows), best], "chosen", axis=0)
    share_mean_squares(build, node.outputs[0], lambda: _squares_after(build, ever, best, rows, squares), rows.shape[1])
    return build.op("Where", [_per_token(build, ever), chosen, x], "out")


def _squares_after(
    build: NodeBuilder, ever: gs.Tensor, best: gs.Tensor, rows: Array, squares: gs.Tensor
) -> gs.Variable:
    """The squared norms behind the replacement, [B, N]."""
    register_squares = build.constant("register_squares", np.square(rows).sum(axis=1))
    replaced = build.op("Gather", [register_squares, best], "replaced_squares", axis=0)
    return build.op("Where", [ever, replaced, squares], "squares_after")


def _mask(build: NodeBuilder, x: gs.Tensor, detection: Detection, rounds: int) -> gs.Variable:
    zero = build.floats("zero", 0.0)
    norms, _ = comparable_norms(build, token_norms(build, x)[0], detection)
    if detection.rule == "absolute" and detection.threshold >= 0:
        rounds = 1  # a zeroed token lies within any threshold
    ever, _ = outlier_mask(build, norms, detection)
    mask: gs.Tensor = ever
    for _ in range(rounds - 1):
        norms = build.op("Where", [mask, zero, norms], "norms")
        mask, _ = outlier_mask(build, norms, detection, finite=True)
        ever = build.op("Or", [ever, mask], "ever")
    return build.op("Where", [_per_token(build, ever), zero, x], "out")


def _unrolled(
    build: NodeBuilder, x: gs.Tensor, weights: list[Array], detection: Detection, rounds: int, *, clip: bool
) -> gs.Variable:
    out = x
    for _ in range(rounds):
        norms, _ = token_norms(build, out)
        mask, limit = outlier_mask(build, comparable_norms(build, norms, detection)[0], detection)
        corrected = _clipped(build, out, norms, limit) if clip else _gated(build, out, norms, weights)
        out = build.op("Where", [_per_token(build, mask), corrected, out], "out")
    return out


def _clipped(build: NodeBuilder, x: gs.Tensor, norms: gs.Tensor, limit: gs.Tensor) -> gs.Tensor:
    factor = _per_token(build, build.op("Div", [limit, norms], "factor"))
    finite = _per_token(build, is_finite(build, norms))
    return build.op("Where", [finite, build.op("Mul", [x, factor], "clipped"), build.floats("zero", 0.0)], "bounded")


def _gated(build: NodeBuilder, x: gs.Tensor, norms: gs.Tensor, weights: list[Array]) -> gs.Tensor:
    rows, choice, gate, bias = (build.constant(f"weight_{i}", w) for i, w in enumerate(weights))
    share = build.op("Softmax", [build.op("MatMul", [x, choice], "logits")], "share", axis=-1)
    mixture = build.op("MatMul", [share, rows], "mixture")
    strength = build.op(
        "Sigmoid", [build.op("Add", [build.op("MatMul", [x, gate], "gate"), bias], "biased")], "strength"
    )
    step = build.op("Mul", [strength, build.op("Sub", [mixture, x], "difference")], "step")
    first = build.constant("register_0", rows.values[0])
    finite = _per_token(build, is_finite(build, norms))
    return build.op("Where", [finite, build.op("Add", [x, step], "blended"), first], "bounded")


def _best_register(build: NodeBuilder, x: gs.Tensor, finite: gs.Tensor, rows: Array) -> gs.Tensor:
    """Index [B, N] of the register with the highest cosine similarity; 0 for a token without a finite norm."""
    similarity = build.op("MatMul", [x, build.constant("unit_registers", _unit(rows).T)], "similarity")
    usable = np.linalg.norm(rows, axis=1) > 0
    if not usable.all():
        lowest = build.floats("lowest", -np.inf)
        similarity = build.op("Where", [build.constant("usable", usable), similarity, lowest], "usable_similarity")
    nearest = build.op("ArgMax", [similarity], "nearest", axis=2, keepdims=0, select_last_index=0)
    first = build.constant("first_register", np.array(0, np.int64))
    return build.op("Where", [finite, nearest, first], "best")


def successors(rows: Array) -> Array:
    """Register -> its own best register, [R] int64: itself, but for duplicates and collinear rows."""
    norms = np.linalg.norm(rows, axis=1)
    similarity = np.where(norms > 0, rows @ _unit(rows).T, -np.inf)
    return np.asarray(similarity.argmax(axis=1), np.int64)


def _unit(rows: Array) -> Array:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0), np.float32)


def _per_token(build: NodeBuilder, mask: gs.Tensor) -> gs.Variable:
    return build.op("Unsqueeze", [mask, build.ints("channel_axis", 2)], "per_token")
