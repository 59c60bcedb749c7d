"""`norms > t * median(norms)` -> how many scaled norms lie below each: no sort, one kernel of [N, N] comparisons.

    before  TopK -> ReduceMin -> Mul(t) -> [Min(largest)] -> Greater(norms, .)
    after   Less(min(t * norms, largest)[:, None, :], norms[:, :, None]) -> ReduceSum -> GreaterOrEqual(N - k + 1)

The median is the k-th largest of N norms. Multiplication by a positive `t` keeps order even when it rounds, so that a
norm exceeds the scaled median exactly where it exceeds N - k + 1 of the scaled norms: the same decisions, bit for bit.
TopK is a kernel of its own, and its result another before anything can be compared; the counts are one.
Constraints: a lowered site, whose TopK has one row per image; a constant, positive factor; the median is read for this
one comparison. A model's own TopK may reduce and compare along any axes, and is none of ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, replace_output
from graphs.constants import constant_value
from graphs.dsr.outlier_thresholds import LARGEST as LARGEST
from graphs.names import is_lowered, own_name, site_of
from graphs.outside_readers import only_reader, take_name
from graphs.rewrite import Match, Miss


@dataclass(frozen=True)
class CountBelow:
    name: str = "count_below"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "TopK" or not is_lowered(node.name):
            return None
        norms, shape = node.inputs[0], node.inputs[0].shape
        if shape is None or len(shape) != 2 or not isinstance(shape[1], int) or norms.dtype != np.float32:
            return Miss(f"its input has shape {shape}, where [batch, tokens] is wanted in FP32", node.name)
        rank, median = constant_value(node.inputs[1]), only_reader(node.outputs[0])
        if rank is None or node.outputs[1].outputs or median is None or median.op != "ReduceMin":
            return Miss("its smallest value alone is not all that is read", node.name)
        scaled = only_reader(median.outputs[0])
        factor = None if scaled is None or scaled.op != "Mul" else _factor(scaled)
        if scaled is None or factor is None or not 0 < factor < np.inf:
            return Miss("its smallest value is not scaled by a positive constant", node.name)
        compared = _comparison(scaled, norms)
        if compared is None:
            return Miss("its scaled value is not what those numbers are compared with", node.name)
        return Match(node, {"compared": compared, "factor": factor, "below": shape[1] - int(rank.item()) + 1})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        norms, compared = match.node.inputs[0], match.found["compared"]
        build, own = NodeBuilder(graph, "lower", site_of(match.node)), own_name(match.node)
        factor = build.floats(f"{own}.factor", match.found["factor"])
        scaled = build.op("Mul", [norms, factor], f"{own}.scaled")
        limits = build.op("Min", [scaled, build.floats(f"{own}.most", LARGEST)], f"{own}.limits")
        each = build.op("Unsqueeze", [limits, build.ints(f"{own}.rows", 1)], f"{own}.each")
        own_norm = build.op("Unsqueeze", [norms, build.ints(f"{own}.columns", 2)], f"{own}.own_norm")
        below = build.op("Less", [each, own_norm], f"{own}.below")
        ones = build.op("Cast", [below], f"{own}.ones", to=1)
        count = build.op("ReduceSum", [ones, build.ints(f"{own}.last", 2)], f"{own}.count", keepdims=0)
        needed = build.floats(f"{own}.needed", match.found["below"])
        mask = build.op("GreaterOrEqual", [count, needed], f"{own}.mask")
        mask.dtype, mask.shape = np.dtype(bool), norms.shape
        take_name(mask, compared.outputs[0])
        replace_output(compared, mask, graph)


def _factor(node: gs.Node) -> float | None:
    """The constant that a Mul multiplies by."""
    known = [value for tensor in node.inputs if (value := constant_value(tensor)) is not None]
    return float(known[0].item()) if len(known) == 1 and known[0].size == 1 else None


def _comparison(scaled: gs.Node, norms: gs.Tensor) -> gs.Node | None:
    """The Greater that compares `norms` with the scaled median, which may have been held finite before."""
    limit = scaled.outputs[0]
    reader = only_reader(limit)
    if reader is not None and reader.op == "Min":
        most = [value for tensor in reader.inputs if (value := constant_value(tensor)) is not None]
        if len(reader.inputs) != 2 or len(most) != 1 or most[0].size != 1 or float(most[0].item()) != LARGEST:
            return None
        limit = reader.outputs[0]
        reader = only_reader(limit)
    if reader is None or reader.op != "Greater":
        return None
    return reader if reader.inputs[0] is norms and reader.inputs[1] is limit else None
