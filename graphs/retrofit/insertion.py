"""Puts symbolic `dsr` nodes into a graph that was exported without them.

    a block's output -> dsr.ReplaceOutliers -> all that read it
    an MLP's activation -> dsr.ShiftRegisterNeurons -> all that read it

Sites are named `dsr/insert/<block>/...`; the lowering finds them like traced ones. Constraints are those of
`graphs.structure.residual_stream`; test-time registers also need `graphs.retrofit.append_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, redirect
from graphs.dsr.domain import DOMAIN, VERSION
from graphs.errors import ExportError
from graphs.files import IR_VERSION
from graphs.foreign.brought_in import OPSET
from graphs.retrofit.append_rows import append_rows
from graphs.rewrite import Miss, near
from graphs.stage_specs import STANDARD_DOMAINS
from graphs.structure.flow import axis_of, describe, producer, source
from graphs.structure.mlp_activation import Activation
from graphs.structure.pinned_shapes import pinned_graph, unpin
from graphs.structure.residual_stream import Block, find_stream

Array = npt.NDArray[Any]
OLDEST_OPSET = 11  # Pad and Slice take their bounds as inputs since


@dataclass(frozen=True, kw_only=True, eq=False)
class ReplacementSite:
    """Outliers in the tokens that leave block `layer` are replaced; `weights`: registers [R, D], then the gate's."""

    layer: int
    weights: tuple[Array, ...]
    rule: str
    threshold: float
    rounds: int
    choice: str
    exclude: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ShiftSites:
    """`neurons` (layer -> indices) move onto `registers` appended rows, each with its `scale`."""

    neurons: Mapping[int, tuple[int, ...]]
    registers: int
    scale: tuple[float, ...]
    normal_values: str


class Retrofit:
    """A model, checked and named as by `graphs.foreign.brought_in`, and its blocks. `folder` holds its weights."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        """Raises `ExportError` where no residual stream is found, with near misses."""
        opset = next(entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS)
        if opset < OLDEST_OPSET:
            raise ExportError(
                f"the model is ONNX opset {opset}, and sites are inserted from {OLDEST_OPSET} on",
                hint=f"export it again with opset {OPSET}",
            )
        self._model, self._folder = model, folder
        self._graph = pinned_graph(model, folder)
        self.stream = find_stream(self._graph)

    def with_replacements(self, sites: Sequence[ReplacementSite]) -> onnx.ModelProto:
        """The model with one ReplaceOutliers behind each listed block."""
        for site in sites:
            _replace(self._graph, self.block(site.layer), site)
        return _written(self._graph, self._model)

    def with_test_time_registers(self, sites: ShiftSites) -> onnx.ModelProto:
        """The model with zero rows appended to its tokens, and one ShiftRegisterNeurons in each listed block's MLP."""
        for layer, neurons in sites.neurons.items():
            self._check_neurons(layer, neurons)
        shapes = append_rows(self._graph, self.stream, sites.registers)
        longer = _written(self._graph, self._model)
        graph = pinned_graph(longer, self._folder)
        _check_shapes(graph, shapes)
        blocks = find_stream(graph).blocks
        for layer, neurons in sites.neurons.items():
            _shift(graph, blocks[layer], neurons, sites)
        return _written(graph, longer)

    def block(self, layer: int) -> Block:
        """Raises `ExportError`, naming the blocks and the near misses, where there is no such layer."""
        if 0 <= layer < len(self.stream.blocks):
            return self.stream.blocks[layer]
        raise ExportError(
            f"layer {layer}: the graph has layers 0 to {len(self.stream.blocks) - 1} ({self.stream.names}); "
            + near(self.stream.misses),
            hint="layers count the blocks of the residual stream from 0",
        )

    def prepended_rows(self, layer: int) -> int:
        """How many rows a Concat puts before the tokens that enter block `layer`; 0 where there is none."""
        maker = producer(source(self.block(layer).entry))
        if maker is not None and maker.op == "Add":  # a position table over all rows
            shape = maker.outputs[0].shape
            whole = [each for each in maker.inputs if each.shape == shape]
            maker = producer(source(whole[0])) if len(whole) == 1 else None
        if maker is None or maker.op != "Concat" or axis_of(maker, 3) != 1:
            return 0
        return int(maker.inputs[0].shape[1])

    def _check_neurons(self, layer: int, neurons: Sequence[int]) -> None:
        activation = self.block(layer).activation
        if isinstance(activation, Miss):
            raise ExportError(
                f"layer {layer} ({self.block(layer).name}) has no MLP activation to shift; {near([activation])}",
                hint="register neurons lie between the two weights of a plain or gated MLP",
            )
        outside = [index for index in neurons if index >= activation.width]
        if outside:
            raise ExportError(
                f"layer {layer} ({self.block(layer).name}), neuron {outside[0]}: the MLP has neurons 0 to "
                f"{activation.width - 1}",
                hint="the table was made for another model",
            )


def _replace(graph: gs.Graph, block: Block, site: ReplacementSite) -> None:
    readers = list(block.output.outputs)
    build = NodeBuilder(graph, "insert", block.name)
    names = ("registers", "choice_weight", "gate_weight", "gate_bias")
    weights = [build.constant(name, array) for name, array in zip(names, site.weights, strict=False)]
    attributes: dict[str, Any] = {"exclude": list(site.exclude)} if site.exclude else {}
    made = build.op(
        "ReplaceOutliers",
        [block.output, *weights],
        "ReplaceOutliers",
        rule=site.rule,
        threshold=site.threshold,
        rounds=site.rounds,
        choice=site.choice,
        **attributes,
    )
    _insert(graph, block.output, made, readers)


def _shift(graph: gs.Graph, block: Block, neurons: Sequence[int], sites: ShiftSites) -> None:
    assert isinstance(block.activation, Activation)  # as checked before the rows were appended
    tensor = block.activation.tensor
    readers = list(tensor.outputs)
    made = NodeBuilder(graph, "insert", f"{block.name}.mlp").op(
        "ShiftRegisterNeurons",
        [tensor],
        "ShiftRegisterNeurons",
        neurons=list(neurons),
        registers=sites.registers,
        scale=list(sites.scale),
        normal_values=sites.normal_values,
    )
    _insert(graph, tensor, made, readers)


def _insert(graph: gs.Graph, old: gs.Variable, made: gs.Variable, readers: Sequence[gs.Node]) -> None:
    made.inputs[0].domain = DOMAIN
    made.dtype, made.shape = old.dtype, old.shape
    redirect(old, made, graph, readers)


def _check_shapes(graph: gs.Graph, expected: Mapping[str, tuple[int, ...]]) -> None:
    """What inference finds must be what following the tokens predicted: two ways to the same shapes."""
    found = {tensor.name: tensor.shape for tensor in graph.tensors().values() if isinstance(tensor, gs.Variable)}
    for name, shape in expected.items():
        if name in found and (found[name] is None or tuple(found[name]) != shape):
            raise ExportError(
                f"test-time registers: '{name}' was to become {describe(shape)}, and is {describe(found[name])}",
                hint="a count of the tokens is written into the graph where it was not found; export it from PyTorch",
            )


def _written(graph: gs.Graph, model: onnx.ModelProto) -> onnx.ModelProto:
    """`graph` as a model with the opsets of `model`, and the `dsr` domain where it is used."""
    unpin(graph).cleanup(remove_unused_graph_inputs=False).toposort()
    written: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False, ir_version=IR_VERSION)
    del written.opset_import[:]
    written.opset_import.extend(entry for entry in model.opset_import if entry.domain != DOMAIN)
    if any(node.domain == DOMAIN for node in written.graph.node):
        written.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    return written
