"""What the sums inside a GEMM may reach: partial sums of a . w stay below |a| . |w|, whatever their order.

An accumulator may be half on some devices, and overflow where the result does not. Cauchy and Schwarz bound every sum
by the largest row norm of `a` times the largest column norm of `w`, at the cost of a norm; where that is not small
enough, |a| . |w| itself is measured, at the cost of the GEMM.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from graphs.artifacts import OptimizedModel
from graphs.builders import NodeBuilder
from graphs.files import load_inferred_graph, save_graph
from graphs.observe.probes import RANGES, ProbedTensor, add_scalar_output, largest_finite
from graphs.weights.stored import StoredValues

BOUND, EXACT = "product bound", "product"


def is_gemm(node: gs.Node) -> bool:
    """Whether it sums FP32 products of two matrices."""
    return node.op in ("MatMul", "Gemm") and node.outputs[0].dtype == np.float32


def bound_probe(node: gs.Node, build: NodeBuilder) -> tuple[ProbedTensor, gs.Variable] | None:
    """The bound of a GEMM's sums: a scalar to record, and what to multiply it with; None for other nodes."""
    if not is_gemm(node):
        return None
    rows = _largest_norm(node.inputs[0], 0 if node.attrs.get("transA") else -1, build)
    axis = -1 if node.attrs.get("transB") else -2
    weight = node.inputs[1]
    if isinstance(weight, gs.Constant):
        return ProbedTensor(node.outputs[0].name, BOUND, _column_norm(weight, axis)), rows
    columns = _largest_norm(weight, axis if (len(weight.shape or ()) != 1) else -1, build)
    return ProbedTensor(node.outputs[0].name, BOUND), build.op("Mul", [rows, columns], "bound")


def add_product_probes(optimized: OptimizedModel, path: Path, tensors: Collection[str]) -> list[ProbedTensor]:
    """Writes a copy to `path` that also outputs the largest |a| . |w| of the GEMMs that make `tensors`."""
    graph = load_inferred_graph(optimized.path)
    build = NodeBuilder(graph, "probe", "products")
    nodes = [node for node in graph.nodes if is_gemm(node) and node.outputs[0].name in tensors]
    maxima = [_product(node, build) for node in nodes]
    add_scalar_output(graph, build, RANGES, maxima)
    save_graph(graph, path)
    return [ProbedTensor(node.outputs[0].name, EXACT) for node in nodes]


def _product(node: gs.Node, build: NodeBuilder) -> gs.Variable:
    sizes = [build.op("Abs", [tensor], "size") for tensor in node.inputs[:2]]
    turned = {key: value for key, value in node.attrs.items() if key in ("transA", "transB")}
    return largest_finite(build.op(node.op, sizes, "product", **turned), build)


def _largest_norm(tensor: gs.Tensor, axis: int, build: NodeBuilder) -> gs.Variable:
    norms = build.op("ReduceL2", [tensor, build.shared(f"axis{axis}", axis)], "norms", keepdims=0)
    return largest_finite(norms, build)


def _column_norm(weight: gs.Constant, axis: int) -> float:
    stored = weight._values
    values = np.asarray(stored.load() if isinstance(stored, StoredValues) else weight.values)
    norms = np.linalg.norm(values, axis=axis if values.ndim > 1 else -1)
    return float(np.max(norms, initial=0.0))
