"""`Split(x W + b)` -> a product for each part: q, k and v, or the two halves of a gated MLP.

    before  x W -> Add(b) -> Split -> parts
    after   x W_i + b_i, a part each; the W_i are parts of W that ONNX Runtime cuts when it opens the model

Its Split copies every part, of a tensor that has left the cache by then: on the CPU a tenth of `rae-dit-s`. W stays one
tensor of the file, which the portable graph shares. Equal to rounding, as GEMMs of other widths add in other orders.
Constraints: FP32, which is what a CPU computes in; a GPU may run one large GEMM faster than three small ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, redirect
from graphs.constants import constant_value
from graphs.names import own_name, site_of
from graphs.outside_readers import only_reader, take_name
from graphs.rewrite import Match, Miss
from graphs.structure.flow import made_by, producer

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PartProducts:
    name: str = "part_products"

    def match(self, node: gs.Node) -> Match | Miss | None:
        """The site is the Split."""
        whole = node.inputs[0] if node.op == "Split" else None
        biased = None if whole is None else _biased(whole)
        if whole is None or biased is None:
            return None
        product, bias = biased
        x, weight = product.inputs
        rank = len(whole.shape or ())
        if rank < 3 or node.attrs.get("axis", 0) not in (-1, rank - 1) or len(x.shape or ()) != rank:
            return Miss("it does not part the channels of tokens", node.name)
        if whole.dtype != np.float32 or weight.dtype != np.float32:
            return Miss(f"it parts {whole.dtype}, which a CPU does not compute in", node.name)
        widths: list[Any] = [(part.shape or (None,))[-1] for part in node.outputs]
        if not all(isinstance(width, int) for width in widths) or sum(widths) != weight.shape[1]:
            return Miss("the widths of its parts are not known", node.name)
        if only_reader(whole) is None or only_reader(product.outputs[0]) is None:
            return Miss("others read what it parts", node.name)
        return Match(node, {"x": x, "weight": weight, "bias": bias, "widths": widths})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, x, bias, widths = match.node, match.found["x"], match.found["bias"], match.found["widths"]
        build, own = NodeBuilder(graph, "runtime", site_of(producer(node.inputs[0]) or node)), own_name(node)
        sizes = [match.found["weight"], build.ints(f"{own}.widths", *widths)]
        weights = build.ops("Split", sizes, f"{own}.weights", outputs=len(widths), axis=1)
        biases = [None] * len(widths) if bias is None else np.split(bias, np.cumsum(widths)[:-1])
        for i, (part, weight, added) in enumerate(zip(node.outputs, weights, biases, strict=True)):
            weight.dtype, weight.shape = x.dtype, [x.shape[-1], widths[i]]
            made = build.op("MatMul", [x, weight], f"{own}.part_{i}")
            made.dtype, made.shape = part.dtype, part.shape
            if added is not None:
                made = build.op("Add", [made, build.constant(f"{own}.bias_{i}", added)], f"{own}.biased_{i}")
                made.dtype, made.shape = part.dtype, part.shape
            take_name(made, part)
            redirect(part, made, graph, list(part.outputs))


def _biased(whole: gs.Tensor) -> tuple[gs.Node, Array | None] | None:
    """The product with a weight that `whole` is, and the constant vector that is added to it, if one is."""
    product = made_by(whole, "MatMul")
    if product is not None:
        return (product, None) if _is_weight(product.inputs[1]) else None
    total = made_by(whole, "Add")
    for tensor, other in () if total is None else (total.inputs, total.inputs[::-1]):
        product, bias = made_by(tensor, "MatMul"), constant_value(other)
        if product is not None and bias is not None and _is_weight(product.inputs[1]):
            return (product, bias) if bias.shape == (product.inputs[1].shape[1],) else None
    return None


def _is_weight(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and len(tensor.shape) == 2
