"""An RMSNorm that reads replaced tokens needs no pass over them: detection knows their squared norms already.

`ReduceMean(Pow(out, 2), -1)` -> the squared norms from before the replacement, or the register's, over D. Equal in real
arithmetic, so to float32 rounding. In ONNX Runtime it saves more time than the norms took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.constants import constant_value


def share_mean_squares(
    build: NodeBuilder, tokens: gs.Variable, squares: Callable[[], gs.Variable], channels: int
) -> None:
    """Every mean of squares over the `channels` of `tokens` [B, N, D] becomes what `squares` makes, [B, N], over D."""
    means = list(_mean_squares(tokens))
    if not means:
        return
    mean = build.op("Div", [squares(), build.floats("channels", channels)], "mean_squares")
    column = build.op("Unsqueeze", [mean, build.ints("channel_axis", 2)], "mean_squares_column")  # [B, N, 1]
    for node in means:
        for reader in list(node.outputs[0].outputs):
            reader.inputs = [column if tensor is node.outputs[0] else tensor for tensor in reader.inputs]


def _mean_squares(tokens: gs.Variable) -> Iterator[gs.Node]:
    for square in tokens.outputs:
        if _is_square(square, tokens):
            yield from (node for node in square.outputs[0].outputs if _is_channel_mean(node))


def _is_square(node: gs.Node, tokens: gs.Variable) -> bool:
    if node.op == "Mul":
        return all(tensor is tokens for tensor in node.inputs)
    if node.op != "Pow" or node.inputs[0] is not tokens:
        return False
    exponent = constant_value(node.inputs[1])
    return exponent is not None and exponent.size == 1 and bool((exponent == 2).all())


def _is_channel_mean(node: gs.Node) -> bool:
    if node.op != "ReduceMean" or node.attrs.get("keepdims", 1) != 1 or node.attrs.get("noop_with_empty_axes", 0):
        return False
    axes = constant_value(node.inputs[1]) if len(node.inputs) > 1 else None
    return axes is not None and axes.tolist() in ([2], [-1])
