"""Range probes: a copy of a graph that also outputs the largest magnitude of each of its float tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from graphs.artifacts import OptimizedModel
from graphs.builders import NodeBuilder
from graphs.files import load_inferred_graph, save_graph

RANGES = "dsr_ranges"
_SUMMED = {"ReduceMean", "ReduceL2"}


@dataclass(frozen=True)
class ProbedTensor:
    """Entry i of the probe's output is the largest |value| of `name`.

    `statistic` is "value", or "sum" for the sum inside a mean or a norm, which may overflow where its result does not:
    `scale * largest ** power` of the recorded value.
    """

    name: str
    statistic: str = "value"
    scale: float = 1.0
    power: int = 1


def add_range_probes(optimized: OptimizedModel, path: Path) -> list[ProbedTensor]:
    """Writes the probed copy to `path`; its extra output `dsr_ranges` has one float per returned tensor and run."""
    graph = load_inferred_graph(optimized.path)
    build = NodeBuilder(graph, "probe", "ranges")
    probed: list[ProbedTensor] = []
    maxima: list[gs.Variable] = []
    for node in list(graph.nodes):
        for tensor in node.outputs:
            if tensor.dtype == np.float32:
                probed.append(_probed(node, tensor))
                maxima.append(build.op("ReduceMax", [build.op("Abs", [tensor], "size")], "largest", keepdims=0))
    flat = [build.op("Reshape", [value, build.ints("vector", 1)], "entry") for value in maxima]
    ranges = build.op("Concat", flat, "ranges", axis=0)
    ranges.name, ranges.dtype, ranges.shape = RANGES, np.dtype(np.float32), (len(flat),)
    graph.outputs.append(ranges)
    save_graph(graph, path)
    return probed


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
