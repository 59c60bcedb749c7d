"""NaN through INT8: a code is an integer, so that NaN would become a number.

An attention row with nothing to attend to is NaN in PyTorch where its mask is -inf (or finfo.min twice), and so is all
that reads it. Runtimes make any code of NaN, and their maxima may drop it; a sum holds it.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.weights.stored import StoredValues

MASKING = 1e38  # two of these add up to an infinity


def masks_with_infinities(graph: gs.Graph) -> bool:
    """Whether a constant of the graph is an infinity, or near enough to make one of a score."""
    filled = [node.attrs["value"] for node in graph.nodes if node.op == "ConstantOfShape" and "value" in node.attrs]
    constants = [tensor for node in graph.nodes for tensor in node.inputs if isinstance(tensor, gs.Constant)]
    return any(_is_mask(tensor) for tensor in [*filled, *constants])


def keep_nan(build: NodeBuilder, x: gs.Tensor, rows: gs.Tensor | None) -> gs.Variable:
    """`rows` (1 where there are none), by which a product of the rows of `x` is multiplied, but NaN where those are."""
    total = build.op("ReduceSum", [x, build.ints("total_axis", -1)], "total", keepdims=1)
    known = build.floats("unscaled", 1.0) if rows is None else rows
    return build.op("Where", [build.op("IsNaN", [total], "is_nan"), total, known], "rows_or_nan")


def _is_mask(tensor: gs.Tensor) -> bool:
    if tensor.dtype != np.float32 or isinstance(tensor._values, StoredValues):  # those are weights
        return False
    return bool((np.abs(tensor.values) > MASKING).any())
