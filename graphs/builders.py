"""The only place where nodes are made. Everything we make is named as `graphs.names` says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.names import made_name

Array = npt.NDArray[Any]
CONTRIB = "com.microsoft"
"""The domain of operators that ONNX Runtime alone has."""


class NodeBuilder:
    """Adds nodes of one site to a graph. `role` says what a node is for; roles of a site are distinct."""

    def __init__(self, graph: gs.Graph, stage: str, site: str) -> None:
        self.graph = graph
        self._stage, self._site = stage, site
        self._taken: dict[str, int] = {}
        self._shared: dict[str, gs.Constant] = {}

    def op(self, op_type: str, inputs: Sequence[gs.Tensor], role: str, **attributes: Any) -> gs.Variable:
        """One node with one output, whose name is the node's own."""
        return self.ops(op_type, inputs, role, outputs=1, **attributes)[0]

    def contrib(self, op_type: str, inputs: Sequence[gs.Tensor], role: str, **attributes: Any) -> gs.Variable:
        """As `op`, of an operator that ONNX Runtime alone has."""
        made = self.op(op_type, inputs, role, **attributes)
        made.inputs[0].domain = CONTRIB
        return made

    def ops(
        self, op_type: str, inputs: Sequence[gs.Tensor], role: str, *, outputs: int, **attributes: Any
    ) -> list[gs.Variable]:
        name = self._name(role)
        results = [gs.Variable(name if i == 0 else f"{name}#{i}") for i in range(outputs)]
        self.graph.nodes.append(gs.Node(op=op_type, name=name, attrs=attributes, inputs=list(inputs), outputs=results))
        return results

    def constant(self, role: str, values: Array) -> gs.Constant:
        return gs.Constant(self._name(role), np.ascontiguousarray(values))

    def shared(self, role: str, value: float) -> gs.Constant:
        """A vector of one value, int64 or float32, the same constant for all of a role: ONNX Runtime opens a model in
        time that is quadratic in its constants."""
        if role not in self._shared:
            self._shared[role] = self.ints(role, value) if isinstance(value, int) else self.floats(role, value)
        return self._shared[role]

    def floats(self, role: str, *values: float) -> gs.Constant:
        """A float32 scalar for one value, else a vector."""
        return self.constant(role, np.array(values[0] if len(values) == 1 else values, np.float32))

    def ints(self, role: str, *values: int) -> gs.Constant:
        """An int64 vector, as axes and shapes want it."""
        return self.constant(role, np.array(values, np.int64))

    def _name(self, role: str) -> str:
        count = self._taken[role] = self._taken.get(role, 0) + 1
        return made_name(self._stage, self._site, role, count)


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
