"""Outlier detection in static ops: norms, thresholds and masks for tokens [B, N, D]; all small tensors are [B, N].

No NonZero, no loop, no data-dependent shape. Semantics: arXiv 2605.05206; a non-finite norm is an outlier, sorts last
in the median and joins neither mean nor deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder

Rule = Literal["absolute", "median", "sigma"]
TOPK_LIMIT = 3840  # TensorRT builds no TopK beyond it
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Detection:
    """Which of `tokens` rows are examined, and by what rule."""

    rule: Rule
    threshold: float
    tokens: int
    exclude: tuple[int, ...]

    @property
    def counted(self) -> list[int]:
        return [row for row in range(self.tokens) if row not in set(self.exclude)]

    @property
    def median_rank(self) -> int:
        """How many norms lie at or below the lower median, the one `torch.median` takes."""
        return (len(self.counted) - 1) // 2 + 1


def token_norms(build: NodeBuilder, x: gs.Tensor) -> gs.Variable:
    """[B, N, D] -> [B, N]."""
    return build.op("ReduceL2", [x, build.ints("last_axis", 2)], "norms", keepdims=0)


def outlier_mask(build: NodeBuilder, norms: gs.Tensor, detection: Detection) -> tuple[gs.Variable, gs.Tensor]:
    """Bool mask [B, N] and the threshold it was made with, [B, 1] (or a scalar).

    `not (n <= t)` rather than `n > t`, so that NaN counts; the threshold is held finite, so that infinity does.
    """
    limit = _limit(build, _counted_norms(build, norms, detection), detection)
    within = build.op("LessOrEqual", [norms, limit], "within")
    mask = build.op("Not", [within], "outlier")
    if detection.exclude:
        counted = np.isin(np.arange(detection.tokens), detection.counted)[None]
        mask = build.op("And", [mask, build.constant("counted", counted)], "counted_outlier")
    return mask, limit


def is_finite(build: NodeBuilder, norms: gs.Tensor) -> gs.Variable:
    """Norms are never negative, so one comparison finds NaN and infinity alike."""
    return build.op("LessOrEqual", [norms, build.floats("largest", LARGEST)], "finite")


def _counted_norms(build: NodeBuilder, norms: gs.Tensor, detection: Detection) -> gs.Tensor:
    rows = detection.counted
    if not detection.exclude or detection.rule == "absolute":
        return norms
    if rows == list(range(rows[0], rows[-1] + 1)):  # registers first or last: a slice is cheaper than a gather
        bounds = [build.ints("first", rows[0]), build.ints("end", rows[-1] + 1), build.ints("token_axis", 1)]
        return build.op("Slice", [norms, *bounds], "counted_norms")
    return build.op("Gather", [norms, build.ints("rows", *rows)], "counted_norms", axis=1)


def _limit(build: NodeBuilder, norms: gs.Tensor, detection: Detection) -> gs.Tensor:
    if detection.rule == "absolute":
        return build.floats("threshold", detection.threshold)
    finite = is_finite(build, norms)
    if detection.rule == "median":
        limit = build.op(
            "Mul",
            [_lower_median(build, norms, finite, detection), build.floats("factor", detection.threshold)],
            "scaled",
        )
    else:
        limit = _mean_and_deviation(build, norms, finite, detection.threshold)
    return build.op("Min", [limit, build.floats("largest", LARGEST)], "limit")


def _lower_median(build: NodeBuilder, norms: gs.Tensor, finite: gs.Tensor, detection: Detection) -> gs.Tensor:
    ordered = build.op("Where", [finite, norms, build.floats("infinity", np.inf)], "sortable")
    rank = build.ints("rank", detection.median_rank)
    values, _ = build.ops("TopK", [ordered, rank], "smallest", outputs=2, axis=1, largest=0, sorted=0)
    return build.op("ReduceMax", [values, build.ints("token_axis", 1)], "median", keepdims=1)


def _mean_and_deviation(build: NodeBuilder, norms: gs.Tensor, finite: gs.Tensor, factor: float) -> gs.Tensor:
    axis, zero = build.ints("token_axis", 1), build.floats("zero", 0.0)
    count = build.op("ReduceSum", [build.op("Cast", [finite], "ones", to=1), axis], "finite_count", keepdims=1)
    count = build.op("Max", [count, build.floats("one", 1.0)], "count")
    total = build.op("ReduceSum", [build.op("Where", [finite, norms, zero], "summed"), axis], "total", keepdims=1)
    mean = build.op("Div", [total, count], "mean")
    offset = build.op("Where", [finite, build.op("Sub", [norms, mean], "centred"), zero], "offset")
    squares = build.op("ReduceSum", [build.op("Mul", [offset, offset], "square"), axis], "squares", keepdims=1)
    deviation = build.op("Sqrt", [build.op("Div", [squares, count], "variance")], "deviation")
    return build.op("Add", [mean, build.op("Mul", [deviation, build.floats("factor", factor)], "spread")], "raised")
