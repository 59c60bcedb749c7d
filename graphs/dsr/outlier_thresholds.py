"""Outlier detection lowered to static ops: norms, thresholds (absolute, median, sigma) and masks.

For tokens [B, N, D]; all small tensors are [B, N].

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
        """How many counted norms lie at or above the lower median, the one `torch.median` takes."""
        return len(self.counted) // 2 + 1


def token_norms(build: NodeBuilder, x: gs.Tensor) -> tuple[gs.Variable, gs.Variable]:
    """[B, N, D] -> norms and their squares, both [B, N]. ONNX Runtime takes longer for ReduceL2."""
    squares = build.op(
        "ReduceSum", [build.op("Mul", [x, x], "square"), build.ints("last_axis", 2)], "squares", keepdims=0
    )
    return build.op("Sqrt", [squares], "norms"), squares


def comparable_norms(build: NodeBuilder, norms: gs.Tensor, detection: Detection) -> tuple[gs.Tensor, gs.Tensor]:
    """Norms as `outlier_mask` compares them, and where they are finite.

    For the median NaN becomes infinity, which sorts last, and an excluded row -1, which sorts first and exceeds no
    threshold (its `finite` is False): then no later round needs a mask of the counted rows.
    """
    if detection.rule != "median":
        return norms, is_finite(build, norms)
    counted = np.isin(np.arange(detection.tokens), detection.counted)[None]  # [1, N]
    largest, infinity = np.where(counted, LARGEST, -1), np.where(counted, np.inf, -1)
    if not detection.exclude:
        largest, infinity = largest[0, 0], infinity[0, 0]
    finite = build.op("LessOrEqual", [norms, build.constant("largest", largest.astype(np.float32))], "finite")
    beyond = build.constant("infinity", infinity.astype(np.float32))
    return build.op("Where", [finite, norms, beyond], "comparable"), finite


def outlier_mask(
    build: NodeBuilder, norms: gs.Tensor, detection: Detection, *, finite: bool = False
) -> tuple[gs.Variable, gs.Tensor]:
    """Bool mask [B, N] of comparable norms, and the threshold it was made with, [B, 1] (or a scalar).

    The threshold is held finite, so that infinity exceeds it; where every norm is known to be `finite` it needn't be.
    """
    if detection.rule == "median":
        limit: gs.Tensor = _median_limit(build, norms, detection)
        limit = limit if finite else build.op("Min", [limit, build.floats("largest", LARGEST)], "limit")
        return build.op("Greater", [norms, limit], "outlier"), limit
    limit = _limit(build, _counted_norms(build, norms, detection), detection)
    within = build.op("LessOrEqual", [norms, limit], "within")  # not (n <= t) rather than n > t, so that NaN counts
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
    limit = _mean_and_deviation(build, norms, is_finite(build, norms), detection.threshold)
    return build.op("Min", [limit, build.floats("largest", LARGEST)], "limit")


def _median_limit(build: NodeBuilder, norms: gs.Tensor, detection: Detection) -> gs.Variable:
    """The smallest of the largest half, scaled: excluded rows, at -1, are never among them."""
    rank = build.ints("rank", detection.median_rank)
    values, _ = build.ops("TopK", [norms, rank], "largest_half", outputs=2, axis=1, largest=1, sorted=0)
    median = build.op("ReduceMin", [values, build.ints("token_axis", 1)], "median", keepdims=1)
    return build.op("Mul", [median, build.floats("factor", detection.threshold)], "scaled")


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
