"""Paths through a graph: what lies between two tensors, and what merely passes a tensor on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_graphsurgeon as gs

from graphs.structure.pinned_shapes import PINNED, is_batch

PASSING = frozenset({"Identity", "Dropout", "Cast"})
"""Ops whose first output is their first input, as far as FP32 inference goes."""
WEIGHTED = frozenset({"MatMul", "Gemm", "Conv"})
MEASURES = frozenset({"Shape", "Size"})
"""Ops that read a tensor without its values: no path leads through them."""


class Flow:
    """Order and constants of one graph, looked up often. The graph must not change while it is in use."""

    def __init__(self, graph: gs.Graph) -> None:
        self._nodes: list[gs.Node] = list(graph.nodes)
        self._place = {id(node): i for i, node in enumerate(self._nodes)}
        self._batch: int | None = graph.inputs[0].shape[0] if graph.inputs and graph.inputs[0].shape else None
        self._constant: dict[int, bool] = {}
        for node in self._nodes:  # topological: what a node reads is known before it
            constant = bool(node.inputs) and all(self.is_constant(tensor) for tensor in node.inputs)
            self._constant.update((id(tensor), constant) for tensor in node.outputs)

    def is_constant(self, tensor: gs.Tensor) -> bool:
        """Whether its value is fixed at export time. An input that is left out is."""
        return isinstance(tensor, gs.Constant) or tensor.is_empty() or self._constant.get(id(tensor), False)

    def between(self, start: gs.Tensor, end: gs.Tensor) -> list[gs.Node]:
        """The nodes on any path from `start` to `end`, in order; none where `end` does not depend on `start`."""
        maker = producer(end)
        if maker is None or end is start:
            return []
        window = self._nodes[self._after(start) : self._place[id(maker)] + 1]
        reached, forward = {id(start)}, []
        for node in window:
            if node.op not in MEASURES and any(id(tensor) in reached for tensor in node.inputs):
                reached.update(id(tensor) for tensor in node.outputs)
                forward.append(node)
        wanted, found = {id(end)}, []
        for node in reversed(forward):
            if any(id(tensor) in wanted for tensor in node.outputs):
                wanted.update(id(tensor) for tensor in node.inputs if id(tensor) in reached)
                found.append(node)
        return found[::-1]

    def multiplies_activations(self, nodes: Iterable[gs.Node]) -> bool:
        """Whether a MatMul among `nodes` has no constant operand: attention, whatever its scores are made of."""
        return any(node.op in ("MatMul", "Einsum", "Attention") and self._mixes(node) for node in nodes)

    def has_weight(self, node: gs.Node) -> bool:
        """Whether `node` multiplies by a constant weight."""
        return node.op in WEIGHTED and self.is_constant(node.inputs[1])

    def is_batch(self, size: int) -> bool:
        """Whether an axis of that size is the batch, or others folded into a free batch."""
        return size == self._batch or is_batch(size)

    def _mixes(self, node: gs.Node) -> bool:
        return sum(not self.is_constant(tensor) for tensor in node.inputs) > 1

    def _after(self, tensor: gs.Tensor) -> int:
        maker = producer(tensor)
        return 0 if maker is None else self._place[id(maker)] + 1


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that makes it; None for graph inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def made_by(tensor: gs.Tensor, op: str) -> gs.Node | None:
    """The node that makes it, where it is of that type."""
    node = producer(tensor)
    return node if node is not None and node.op == op else None


def source(tensor: gs.Tensor) -> gs.Tensor:
    """Where the tensor comes from, past nodes that only pass it on."""
    maker = producer(tensor)
    while maker is not None and maker.op in PASSING and maker.outputs[0] is tensor:
        tensor = maker.inputs[0]
        maker = producer(tensor)
    return tensor


def readers(tensor: gs.Tensor) -> Iterator[tuple[gs.Node, gs.Tensor]]:
    """The nodes that read it, past those that only pass it on, each with the name it reads it by."""
    for node in tensor.outputs:
        if node.op in PASSING:
            yield from readers(node.outputs[0])
        else:
            yield node, tensor


def axis_of(node: gs.Node, rank: int, default: int = -1) -> int:
    """The `axis` attribute, counted from the front."""
    return int(node.attrs.get("axis", default)) % rank


def describe(shape: Iterable[int] | None) -> str:
    """`[batch, 16, 48]` for a pinned shape."""
    if shape is None:
        return "an unknown shape"
    return "[" + ", ".join(_dim(dim) for dim in shape) + "]"


def _dim(dim: int) -> str:
    if dim < PINNED or dim % PINNED:
        return str(dim)
    return "batch" if dim == PINNED else f"batch*{dim // PINNED}"
