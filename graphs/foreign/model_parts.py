"""Everything that a model file holds, wherever it is nested: graphs in attributes, functions and their defaults, graphs
for training. What checks a file walks these, so that no reader finds a part that the check did not see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx


@dataclass(frozen=True)
class Parts:
    """All graphs, nodes and tensors of a model; the values and indices of sparse tensors count as tensors."""

    graphs: list[onnx.GraphProto] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)


def model_parts(model: onnx.ModelProto) -> Parts:
    """The parts of `model`. Not recursive: a file chooses how deep it nests."""
    parts = Parts()
    waiting: list[onnx.GraphProto] = [model.graph]
    for training in model.training_info:
        waiting += [training.initialization, training.algorithm]
    for function in model.functions:
        waiting += _take_attributes(parts, function.attribute_proto)
        waiting += _take_nodes(parts, function.node)
    _take_graphs(parts, waiting)
    return parts


def nodes_within(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """`nodes`, and those of the graphs in their attributes."""
    parts = Parts()
    _take_graphs(parts, _take_nodes(parts, nodes))
    return parts.nodes


def _take_graphs(parts: Parts, waiting: list[onnx.GraphProto]) -> None:
    while waiting:
        graph = waiting.pop()
        parts.graphs.append(graph)
        parts.tensors.extend(graph.initializer)
        parts.tensors.extend(_dense(graph.sparse_initializer))
        waiting += _take_nodes(parts, graph.node)


def _take_nodes(parts: Parts, nodes: Iterable[onnx.NodeProto]) -> list[onnx.GraphProto]:
    graphs: list[onnx.GraphProto] = []
    for node in nodes:
        parts.nodes.append(node)
        if node.attribute:
            graphs += _take_attributes(parts, node.attribute)
    return graphs


def _take_attributes(parts: Parts, attributes: Iterable[onnx.AttributeProto]) -> list[onnx.GraphProto]:
    """Puts the tensors of `attributes` into `parts`; returns the graphs that they hold."""
    graphs: list[onnx.GraphProto] = []
    for attribute in attributes:
        if attribute.HasField("t"):
            parts.tensors.append(attribute.t)
        if attribute.HasField("g"):
            graphs.append(attribute.g)
        if attribute.HasField("sparse_tensor"):
            parts.tensors.extend(_dense([attribute.sparse_tensor]))
        parts.tensors.extend(attribute.tensors)
        parts.tensors.extend(_dense(attribute.sparse_tensors))
        graphs.extend(attribute.graphs)
    return graphs


def _dense(sparse: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for each in sparse:
        yield from (each.values, each.indices)
