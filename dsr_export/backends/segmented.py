"""Runs a graph whose `dsr` ops are still symbolic: ONNX Runtime between them, the numpy definition at each.

This is the reference for models that have no PyTorch module. The graph is cut at its `dsr` nodes: segment k holds every
node that k of them, one after another, lie before.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import onnx
from onnx import helper, numpy_helper

from dsr_export.backends.base import Array
from dsr_export.backends.inputs import check_inputs
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import RunnerError
from dsr_export.storage.leftovers import scratch_folder
from graphs.artifacts import TensorSpec
from graphs.dsr.definitions import evaluate
from graphs.dsr.domain import DOMAIN
from graphs.files import load_model, save_model


@dataclass
class Segment:
    """Standard nodes between two levels of `dsr` nodes, and the `sites` that come after them.

    `reads` are made outside of the segment, `makes` is what anything outside of it needs.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    sites: list[onnx.NodeProto] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    makes: list[str] = field(default_factory=list)


def segments(graph: onnx.GraphProto) -> list[Segment]:
    """Cuts a topologically sorted graph without subgraphs at its `dsr` nodes."""
    level = {value.name: 0 for value in graph.input}
    found: list[Segment] = [Segment()]
    for node in graph.node:
        at, symbolic = max((level.get(name, 0) for name in node.input), default=0), node.domain == DOMAIN
        (found[at].sites if symbolic else found[at].nodes).append(node)
        level.update(dict.fromkeys(node.output, at + symbolic))
        if symbolic and at + 1 == len(found):
            found.append(Segment())
    _connect(graph, found)
    return found


def _connect(graph: onnx.GraphProto, found: list[Segment]) -> None:
    constants = {tensor.name for tensor in graph.initializer} | {""}
    outputs = [value.name for value in graph.output]
    for segment in found:
        made = {name for node in segment.nodes for name in node.output}
        inside = {id(node) for node in segment.nodes}
        wanted = [name for node in graph.node if id(node) not in inside for name in node.input] + outputs
        read = [name for node in segment.nodes for name in node.input]
        segment.reads = list(dict.fromkeys(name for name in read if name not in made | constants))
        segment.makes = list(dict.fromkeys(name for name in wanted if name in made))


class SegmentedRunner:
    """A model file with symbolic `dsr` nodes on the CPU, without graph optimisations."""

    name = "onnx-segments"

    def __init__(self, model: Path, *, inputs: Sequence[TensorSpec]) -> None:
        """Raises `ExportError` where the model cannot be read."""
        self._specs = tuple(inputs)
        self._model = load_model(model)
        self._constants = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._segments = segments(self._model.graph)
        self._runners: dict[int, OnnxRuntimeRunner] = {}
        self._open = ExitStack()
        self._folder = self._open.enter_context(scratch_folder("segments"))
        self._closed = False

    def __enter__(self) -> SegmentedRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._runners.clear()
        self._open.close()

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Named inputs to named outputs, batch first; raises what `Runner.infer` does."""
        if self._closed:
            raise RunnerError("this runner is closed")
        values = check_inputs(inputs, self._specs)
        for i, segment in enumerate(self._segments):
            if segment.makes:
                fed = {name: values[name] for name in segment.reads}
                values.update(self._runner(i, fed).infer(fed))
            for site in segment.sites:
                values[site.output[0]] = evaluate(site, [self._value(name, values) for name in site.input])
        return {value.name: values[value.name] for value in self._model.graph.output}

    def _value(self, name: str, values: dict[str, Array]) -> Array | None:
        if name in self._constants:
            return numpy_helper.to_array(self._constants[name])
        return values[name] if name else None

    def _runner(self, i: int, fed: dict[str, Array]) -> OnnxRuntimeRunner:
        """Made on first use, when the types of what it reads are known from the arrays themselves."""
        if i not in self._runners:
            path = save_model(self._submodel(self._segments[i], fed), self._folder / f"segment{i}.onnx")
            axes = {name: tuple(f"{name}#{axis}" for axis in range(array.ndim)) for name, array in fed.items()}
            specs = [TensorSpec(name=name, dtype=str(a.dtype), shape=axes[name]) for name, a in fed.items()]
            self._runners[i] = OnnxRuntimeRunner(path, inputs=specs, optimize=False)
        return self._runners[i]

    def _submodel(self, segment: Segment, fed: dict[str, Array]) -> onnx.ModelProto:
        read = {name for node in segment.nodes for name in node.input}
        graph = helper.make_graph(
            segment.nodes,
            "segment",
            [_typed(name, array) for name, array in fed.items()],
            [helper.make_empty_tensor_value_info(name) for name in segment.makes],
            [tensor for name, tensor in self._constants.items() if name in read],
        )
        opsets = [entry for entry in self._model.opset_import if entry.domain != DOMAIN]
        return helper.make_model(graph, opset_imports=opsets, ir_version=self._model.ir_version)


def _typed(name: str, array: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
