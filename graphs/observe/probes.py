"""Range probes: a copy of a graph that also outputs the largest finite magnitude of each of its float tensors.

NaN and infinities inside a graph are no fault by themselves (masks are -inf), so that the ranges leave them out; fault
probes count them, for a message that has to name where they begin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphs.artifacts import OptimizedModel
from graphs.builders import NodeBuilder
from graphs.files import load_inferred_graph, save_graph

RANGES, FAULTS = "dsr_ranges", "dsr_faults"
LARGEST = float(np.finfo(np.float32).max)
_SUMMED = {"ReduceMean", "ReduceL2"}


@dataclass(frozen=True)
class ProbedTensor:
    """Entry i of the probe's output is the largest finite |value| of `name`, 0 where it has none.

    `statistic` is "value"; "least", which is the smallest |value| but 0, of what others are divided by; or "sum" for
    the sum inside a mean or a norm, which may overflow where its result does not: `scale * largest ** power` of the
    recorded value. "product bound" and "product" are of the sums inside a GEMM (`graphs.observe.product_probes`).
    """

    name: str
    statistic: str = "value"
    scale: float = 1.0
    power: int = 1


MoreProbes = Callable[[gs.Node, NodeBuilder], tuple[ProbedTensor, gs.Variable] | None]


def add_range_probes(
    optimized: OptimizedModel, path: Path, more: MoreProbes | None = None, *, quick: bool = False
) -> list[ProbedTensor]:
    """Writes the probed copy to `path`; its extra output `dsr_ranges` has one float per returned tensor and run.

    `more` adds a probe of its own to a node, or None. `quick` probes take a third of the time, and give NaN for a
    tensor that is not finite throughout, or may not be.
    """
    graph = load_inferred_graph(optimized.path)
    build = NodeBuilder(graph, "probe", "ranges")
    found = _floats(graph)
    probed = [_probed(node, tensor) for node, tensor in found]
    tensors = [tensor for _, tensor in found]
    ranges = [_extents(tensors, build) if quick else _vector([largest_finite(each, build) for each in tensors], build)]
    for node, tensor in found:
        others = [(ProbedTensor(str(tensor.name), "least"), _least(tensor, build))] if _divides(tensor) else []
        own = more(node, build) if more is not None and tensor is node.outputs[0] else None
        for record, value in [*others, *([] if own is None else [own])]:
            probed.append(record)
            ranges.append(_vector([value], build))
    _add_output(graph, RANGES, build.op("Concat", ranges, "all", axis=0), len(probed))
    save_graph(graph, path)
    return probed


def add_fault_probes(optimized: OptimizedModel, path: Path) -> list[str]:
    """Writes a copy to `path` whose extra output `dsr_faults` has one float per returned tensor: 2 NaN, 1 infinite, 0.

    The tensors stand in the order in which they are computed.
    """
    graph = load_inferred_graph(optimized.path)
    build = NodeBuilder(graph, "probe", "faults")
    names, found = [], []
    for _, tensor in _floats(graph):
        names.append(str(tensor.name))
        nan, infinite = (build.op(op, [tensor], op.lower()) for op in ("IsNaN", "IsInf"))
        kinds = [build.op("Cast", [flag], "kind", to=onnx.TensorProto.FLOAT) for flag in (nan, nan, infinite)]
        found.append(build.op("ReduceMax", [build.op("Sum", kinds, "fault")], "worst", keepdims=0))
    add_scalar_output(graph, build, FAULTS, found)
    save_graph(graph, path)
    return names


def _floats(graph: gs.Graph) -> list[tuple[gs.Node, gs.Variable]]:
    """Each FP32 tensor with the node that makes it, in the order of computation."""
    graph.toposort()
    return [(node, tensor) for node in graph.nodes for tensor in node.outputs if tensor.dtype == np.float32]


def _divides(tensor: gs.Variable) -> bool:
    """Whether something is divided by `tensor`, or takes its logarithm: what small values of it become is large."""
    return any(
        (node.op == "Div" and node.inputs[1] is tensor)
        or node.op in ("Reciprocal", "Log")
        or (node.op == "Pow" and _is_negative(node.inputs[1]))
        for node in tensor.outputs
    )


def _is_negative(exponent: gs.Tensor) -> bool:
    return not isinstance(exponent, gs.Constant) or bool((exponent.values < 0).any())


def largest_finite(tensor: gs.Variable, build: NodeBuilder) -> gs.Variable:
    """The largest |value| that is finite, a scalar; 0 where none is."""
    size = build.op("Abs", [tensor], "size")
    finite = build.op("LessOrEqual", [size, build.shared("bound", LARGEST)], "finite")  # false for NaN, too
    known = build.op("Where", [finite, size, build.shared("nothing", 0.0)], "known")
    return build.op("ReduceMax", [known], "largest", keepdims=0)


def _least(tensor: gs.Variable, build: NodeBuilder) -> gs.Variable:
    """The smallest |value| but 0, a scalar."""
    size = build.op("Abs", [tensor], "magnitude")
    nonzero = build.op("Greater", [size, build.shared("nothing", 0.0)], "nonzero")
    least = build.op("Where", [nonzero, size, build.shared("bound", LARGEST)], "divisor")
    return build.op("ReduceMin", [least], "least", keepdims=0)


def _extents(tensors: list[gs.Variable], build: NodeBuilder) -> gs.Variable:
    """The largest |value| of each, a vector. A sum times zero is NaN where a value is not finite."""
    high, low, total = (
        _vector([build.op(op, [each], op.lower(), keepdims=0) for each in tensors], build)
        for op in ("ReduceMax", "ReduceMin", "ReduceSum")
    )
    largest = build.op("Max", [high, build.op("Neg", [low], "negated")], "extents")
    return build.op("Add", [largest, build.op("Mul", [total, build.shared("nothing", 0.0)], "unknown")], "known")


def add_scalar_output(graph: gs.Graph, build: NodeBuilder, name: str, scalars: list[gs.Variable]) -> None:
    """A graph output `name`: one vector of `scalars`."""
    _add_output(graph, name, _vector(scalars, build), len(scalars))


def _vector(scalars: list[gs.Variable], build: NodeBuilder) -> gs.Variable:
    flat = [build.op("Reshape", [value, build.shared("vector", 1)], "entry") for value in scalars]
    return build.op("Concat", flat, "all", axis=0)


def _add_output(graph: gs.Graph, name: str, vector: gs.Variable, count: int) -> None:
    vector.name, vector.dtype, vector.shape = name, np.dtype(np.float32), (count,)
    graph.outputs.append(vector)


def _probed(node: gs.Node, tensor: gs.Tensor) -> ProbedTensor:
    if node.op not in _SUMMED:
        return ProbedTensor(tensor.name)
    if node.op == "ReduceL2":
        return ProbedTensor(tensor.name, "sum", 1.0, 2)
    return ProbedTensor(tensor.name, "sum", _reduced_elements(node), 1)


def _reduced_elements(node: gs.Node) -> float:
    """How many elements a mean is taken over (static axes; a dynamic one counts once)."""
    shape = node.inputs[0].shape or ()
    axes = np.asarray(node.inputs[1].values).ravel() if len(node.inputs) > 1 else range(len(shape))
    sizes = [shape[int(axis)] for axis in axes if int(axis) < len(shape)]
    return float(math.prod(size for size in sizes if isinstance(size, int)))


def add_outputs(optimized: OptimizedModel, path: Path, tensors: Sequence[str]) -> Path:
    """Writes a copy to `path` that also outputs `tensors`, by their names."""
    graph = load_inferred_graph(optimized.path)
    known, present = graph.tensors(), {id(output) for output in graph.outputs}
    graph.outputs += [known[name] for name in tensors if id(known[name]) not in present]
    return save_graph(graph, path)
