"""Products of computed tensors whose quotient is taken, and whose divisor only a tiny epsilon keeps from zero.

Linear attention: `(V K) Q / ((1 K) Q + 1e-15)`, without a softmax to bound its sums. In half the products overflow, or
the divisor becomes zero where what is divided does not. Models compute both in FP32, and a traced graph does not tell.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from graphs.precisions import Held
from graphs.structure.movers import MOVERS

PRODUCTS = frozenset({"MatMul", "Einsum"})
_PASSED = MOVERS | {"Concat", "Pad", "Cast"}


def guarded_quotients(graph: gs.Graph, held: Held) -> set[str]:
    """Names of the products, and of what moves their values between them and the quotient."""
    found: dict[str, gs.Node] = {}
    for node in graph.nodes:
        guarded = _guarded(node, held) if node.op == "Div" else None
        if guarded is not None:
            for product in _products(guarded):
                found[product.name] = product
    for product in list(found.values()):
        found |= {mover.name: mover for mover in _movers_behind(product)}
    return set(found)


def _guarded(division: gs.Node, held: Held) -> gs.Tensor | None:
    """What stands in the divisor beside a constant too small for the type."""
    makers = division.inputs[1].inputs
    if not makers or makers[0].op != "Add":
        return None
    constants = [each for each in makers[0].inputs if isinstance(each, gs.Constant)]
    others = [each for each in makers[0].inputs if not isinstance(each, gs.Constant)]
    if len(constants) != 1 or constants[0].values.size != 1 or constants[0].dtype != np.float32:
        return None
    return others[0] if 0 < float(constants[0].values.ravel()[0]) < held.least else None


def _products(tensor: gs.Tensor) -> Iterator[gs.Node]:
    """Products of two computed tensors that `tensor` is moved from, and those that they are made of in turn."""
    waiting, seen = [tensor], set[int]()
    while waiting:
        for maker in waiting.pop().inputs:
            computed = [each for each in maker.inputs if not isinstance(each, gs.Constant)]
            is_product = maker.op in PRODUCTS and len(computed) == len(maker.inputs)
            if id(maker) in seen or not (is_product or maker.op in _PASSED):
                continue
            seen.add(id(maker))
            waiting += computed
            if is_product:
                yield maker


def _movers_behind(product: gs.Node) -> Iterator[gs.Node]:
    waiting = [product]
    while waiting:
        for reader in [each for tensor in waiting.pop().outputs for each in tensor.outputs]:
            if reader.op in _PASSED:
                yield reader
                waiting.append(reader)
