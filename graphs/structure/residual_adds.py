"""`tokens + branch(norm(tokens))`: the Add that ends a pre-norm branch of a transformer block.

A miss is an Add that looks like one, since a weight lies on its branch, and why it is none. Cross-attention may read
its queries without a norm (PixArt); it then counts only right behind an Add whose branch has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.rewrite import Miss
from graphs.structure.flow import Flow, describe, producer, source
from graphs.structure.norm_reads import reads_past_norm


@dataclass(frozen=True, eq=False)
class ResidualAdd:
    """`node` adds `branch` to `before` [batch, N, D]; `inside` is all that lies between the two, in order."""

    node: gs.Node
    before: gs.Tensor
    branch: gs.Tensor
    inside: tuple[gs.Node, ...]
    attends: bool
    bare: gs.Node | None = None  # what reads the tokens of a cross-attention without a norm

    @property
    def output(self) -> gs.Variable:
        return self.node.outputs[0]

    def holds(self, node: gs.Node) -> bool:
        """Whether `node` lies on the branch. Nodes compare by their whole content otherwise, which is slow."""
        return any(node is each for each in self.inside)


def match_residual_add(flow: Flow, node: gs.Node) -> ResidualAdd | Miss | None:
    """None where no operand depends on the other through a weight."""
    if node.op != "Add":
        return None
    for before, branch in (node.inputs, node.inputs[::-1]):
        inside = () if flow.is_constant(before) else tuple(flow.between(source(before), branch))
        if any(flow.has_weight(each) for each in inside):
            return _match(flow, node, before, branch, inside)
    return None


def _match(
    flow: Flow, node: gs.Node, before: gs.Tensor, branch: gs.Tensor, inside: tuple[gs.Node, ...]
) -> ResidualAdd | Miss | None:
    shape = node.outputs[0].shape
    if shape is None or before.shape is None:
        return Miss("the shape of what it adds cannot be inferred", node.name)
    if before.shape != shape:
        return None
    if len(shape) != 3:
        return Miss(f"a residual of {describe(shape)}, not of tokens [batch, N, D]", node.name)
    if not flow.is_batch(shape[0]):
        return Miss(f"a residual of {describe(shape)}, whose first axis is not the batch", node.name)
    bare = next(iter(reads_past_norm(flow, source(before), inside)), None)
    add = ResidualAdd(node, before, branch, inside, flow.multiplies_activations(inside), bare)
    return _unnormed(node, bare) if bare is not None and not _crosses(flow, add) else add


def normed_adds(results: Sequence[ResidualAdd | Miss]) -> tuple[list[ResidualAdd], list[Miss]]:
    """The Adds that count, and the misses: a cross-attention without a norm needs a normed Add right before it."""
    misses = [result for result in results if isinstance(result, Miss)]
    adds = [result for result in results if isinstance(result, ResidualAdd)]
    normed = {id(add.output) for add in adds if add.bare is None}
    counting = [add for add in adds if add.bare is None or id(source(add.before)) in normed]
    misses += [_unnormed(add.node, add.bare) for add in adds if add.bare is not None and add not in counting]
    return counting, misses


def _unnormed(node: gs.Node, bare: gs.Node) -> Miss:
    return Miss(f"its branch reads the tokens without a norm before it, at {bare.name}", node.name)


def _crosses(flow: Flow, add: ResidualAdd) -> bool:
    """Whether it attends to something else than its own tokens."""
    products = [node for node in add.inside if node.op == "MatMul" and not flow.has_weight(node)]
    makers = [producer(tensor) for node in products for tensor in node.inputs]
    return any(maker is not None and not add.holds(maker) for maker in makers)
