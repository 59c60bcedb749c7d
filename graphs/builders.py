"""The only place where nodes are made. Everything we make is named `dsr/<stage>/<site>/<role>`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

Array = npt.NDArray[Any]
PREFIX = "dsr/"


class NodeBuilder:
    """Adds nodes of one site to a graph. `role` says what a node is for; roles of a site are distinct."""

    def __init__(self, graph: gs.Graph, stage: str, site: str) -> None:
        self._graph = graph
        self._prefix = f"{PREFIX}{stage}/{site}"
        self._taken: dict[str, int] = {}

    def op(self, op_type: str, inputs: Sequence[gs.Tensor], role: str, **attributes: Any) -> gs.Variable:
        """One node with one output, whose name is the node's own."""
        return self.ops(op_type, inputs, role, outputs=1, **attributes)[0]

    def ops(
        self, op_type: str, inputs: Sequence[gs.Tensor], role: str, *, outputs: int, **attributes: Any
    ) -> list[gs.Variable]:
        name = self._name(role)
        results = [gs.Variable(name if i == 0 else f"{name}#{i}") for i in range(outputs)]
        self._graph.nodes.append(gs.Node(op=op_type, name=name, attrs=attributes, inputs=list(inputs), outputs=results))
        return results

    def constant(self, role: str, values: Array) -> gs.Constant:
        return gs.Constant(self._name(role), np.ascontiguousarray(values))

    def floats(self, role: str, *values: float) -> gs.Constant:
        """A float32 scalar for one value, else a vector."""
        return self.constant(role, np.array(values[0] if len(values) == 1 else values, np.float32))

    def ints(self, role: str, *values: int) -> gs.Constant:
        """An int64 vector, as axes and shapes want it."""
        return self.constant(role, np.array(values, np.int64))

    def _name(self, role: str) -> str:
        count = self._taken[role] = self._taken.get(role, 0) + 1
        return f"{self._prefix}/{role}" + (f"_{count}" if count > 1 else "")


def site_of(node: gs.Node) -> str:
    """The module a node belongs to: `blocks.3` of `blocks.3/ReplaceOutliers`, and of `dsr/insert/blocks.3/...` too."""
    name = str(node.name)
    name = name.split("/", 2)[2] if name.startswith(PREFIX) else name
    return name.rsplit("/", 1)[0]


def own_name(node: gs.Node) -> str:
    """A node's name within its module: `Mul_1` of `blocks.3.norm1/Mul_1`. What replaces it may carry it on."""
    return str(node.name).rsplit("/", 1)[-1]


def replace_output(node: gs.Node, replacement: gs.Variable, graph: gs.Graph) -> None:
    """Gives everything that read `node`'s first output `replacement` instead; graph outputs keep their names."""
    redirect(node.outputs[0], replacement, graph, list(node.outputs[0].outputs))
    node.outputs.clear()


def redirect(old: gs.Variable, replacement: gs.Variable, graph: gs.Graph, readers: Iterable[gs.Node]) -> None:
    """Gives `readers` of `old` `replacement` instead, and makes it a graph output where `old` was one.

    List the readers before `replacement` is built where it depends on `old` itself.
    """
    for reader in readers:
        reader.inputs = [replacement if tensor is old else tensor for tensor in reader.inputs]
    if any(output is old for output in graph.outputs):
        replacement.dtype, replacement.shape = old.dtype, old.shape
        replacement.name, old.name = old.name, f"{old.name}.before"
        graph.outputs = [replacement if output is old else output for output in graph.outputs]
