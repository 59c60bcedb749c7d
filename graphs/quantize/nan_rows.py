"""NaN through INT8: a code is an integer, so that NaN would become a number.

An attention row with nothing to attend to is NaN in PyTorch where its mask is -inf (or finfo.min twice), 0 / 0 is, and
so is all that reads them. Runtimes make any code of NaN, and their maxima may drop it; a sum holds it. A product with
an infinity is NaN too but for rare signs, and what a norm makes of it is in any case.
"""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder


def keep_nan(build: NodeBuilder, x: gs.Tensor, rows: gs.Tensor | None) -> gs.Variable:
    """`rows` (1 where there are none), by which a product of the rows of `x` is multiplied, but NaN where those hold
    NaN or an infinity."""
    total = build.op("ReduceSum", [x, build.ints("total_axis", -1)], "total", keepdims=1)
    known = build.floats("unscaled", 1.0) if rows is None else rows
    broken = [build.op(op, [total], op.lower()) for op in ("IsNaN", "IsInf")]
    lost = build.op("Or", broken, "is_broken")
    return build.op("Where", [lost, build.floats("nan", math.nan), known], "rows_or_nan")
