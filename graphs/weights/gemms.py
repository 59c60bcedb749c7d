"""GEMMs with a constant weight: which there are, what they read, and what share of the arithmetic each does."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.names import is_made, module_of
from graphs.weights.sample_rows import sample_rows


@dataclass(frozen=True)
class WeightGemm:
    """`activation [..., in_features] x weight`, of a MatMul or a Gemm.

    `rows` counts the rows of one sample: its tokens, or 1 for a condition [batch, in_features]. `batch_axis` of the
    activation tells samples apart. `transposed` says that the weight is stored [out_features, in_features].
    """

    node: gs.Node
    activation: gs.Tensor
    weight: gs.Constant
    rows: int
    in_features: int
    out_features: int
    transposed: bool
    batch_axis: int = 0

    @property
    def name(self) -> str:
        """The module path, `blocks.3.attn.qkv`; the node's name where several GEMMs belong to one module."""
        return module_of(self.node.name) if self.node.name.endswith(("/MatMul", "/Gemm")) else str(self.node.name)

    @property
    def of_condition(self) -> bool:
        """Whether it reads one row of each sample, [batch, in_features]."""
        return len(self.activation.shape) == 2 and self.rows == 1

    @property
    def has_token_axis(self) -> bool:
        """Whether the activation is [batch, rows, in_features]: a constant for each row fits it."""
        shape = self.activation.shape
        return self.batch_axis == 0 and len(shape) == 3 and shape[1] == self.rows

    @property
    def flops(self) -> int:
        """Multiplications and additions for one sample."""
        return 2 * self.rows * self.in_features * self.out_features


def weight_gemms(graph: gs.Graph) -> list[WeightGemm]:
    """The model's own, in the order of the graph's nodes; none of detection. Shapes must have been inferred."""
    own = (node for node in graph.nodes if not is_made(node.name))
    batch = next((tensor.shape[0] for tensor in graph.inputs if tensor.shape), None)
    return [found for node in own if (found := _weight_gemm(node, batch)) is not None]


def outer_gemms(graph: gs.Graph) -> set[str]:
    """Names of the nodes with weights that no weight lies before, or none behind: embedders and final layers.

    One weight on any path is enough: a stream of tokens goes around every block, and a mask joins in each of them, so
    that the shortest path from an input to a GEMM, or from there to an output, says little of where it stands.
    """
    weighted = [node for node in graph.nodes if _weighted(node)]
    behind, before = _beyond(weighted, forward=True), _beyond(weighted, forward=False)
    return {str(node.name) for node in weighted if id(node) not in behind or id(node) not in before}


def _weight_gemm(node: gs.Node, batch: int | str | None) -> WeightGemm | None:
    if node.op not in ("MatMul", "Gemm") or not isinstance(node.inputs[1], gs.Constant):
        return None
    activation, weight = node.inputs[0], node.inputs[1]
    if len(weight.shape) != 2 or isinstance(activation, gs.Constant) or node.attrs.get("transA", 0):
        return None
    if len(node.inputs) > 2 and not isinstance(node.inputs[2], gs.Constant):
        return None
    transposed = bool(node.attrs.get("transB", 0))
    first, second = (int(size) for size in weight.shape)
    rows = sample_rows(activation, batch)
    if rows is None:
        return None
    width, outputs = (second, first) if transposed else (first, second)
    return WeightGemm(node, activation, weight, rows[0], width, outputs, transposed, rows[1])


def _weighted(node: gs.Node) -> bool:
    """Whether it multiplies by a weight, or looks rows up in one, as embedders of words do."""
    if node.op == "Gather":
        table, index = node.inputs[:2]
        return isinstance(table, gs.Constant) and len(table.shape) == 2 and not isinstance(index, gs.Constant)
    return node.op in ("MatMul", "Gemm", "Conv") and any(isinstance(each, gs.Constant) for each in node.inputs)


def _beyond(start: list[gs.Node], *, forward: bool) -> set[int]:
    """Ids of the nodes behind any of `start` (before it, without `forward`)."""
    seen: set[int] = set()
    pending = list(start)
    while pending:
        node = pending.pop()
        for tensor in node.outputs if forward else node.inputs:
            for other in tensor.outputs if forward else tensor.inputs:
                if id(other) not in seen and other.op != "Shape":  # a batch size is no data
                    seen.add(id(other))
                    pending.append(other)
    return seen


def factor_of(gemm: WeightGemm) -> float:
    """What a Gemm multiplies its product by, before the bias."""
    return float(gemm.node.attrs.get("alpha", 1.0))
