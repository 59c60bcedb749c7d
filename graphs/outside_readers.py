"""Graph outputs count as readers: whoever runs the model reads them, though no node of the graph does.

A rewrite that asks "who reads this tensor?" gets the answer from the nodes behind it. Within `outside_readers` there is
one for every graph output, an Identity that is taken away afterwards, so that no rewrite has to think of outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_graphsurgeon as gs

_OUTSIDE = "outside/"


@contextmanager
def outside_readers(graph: gs.Graph) -> Iterator[None]:
    """Shows every graph output as a node's input; afterwards the outputs have their names again, whatever makes them.

    Not undone where the block raises: the graph is half changed by then. Names of outputs must not change within.
    """
    outputs = list(graph.outputs)
    graph.outputs = [_shown(graph, tensor, i) for i, tensor in enumerate(outputs)]
    yield
    graph.outputs = [
        _restored(graph, old, shown, [*outputs[:i], *outputs[i + 1 :]])
        for i, (old, shown) in enumerate(zip(outputs, graph.outputs, strict=True))
    ]


def only_reader(tensor: gs.Tensor) -> gs.Node | None:
    """The node that reads `tensor`, where one alone does; for use within `outside_readers`."""
    return tensor.outputs[0] if len(tensor.outputs) == 1 else None


def take_name(new: gs.Variable, old: gs.Variable) -> None:
    """Gives `new` the name of `old`, in whose place it comes: what looks into the model finds it as before.

    An output of the graph gets its name back afterwards anyway. For use before the readers of `old` are given `new`.
    """
    if not any(str(node.name).startswith(_OUTSIDE) for node in old.outputs):
        new.name, old.name = old.name, new.name


def _shown(graph: gs.Graph, tensor: gs.Tensor, index: int) -> gs.Variable:
    shown = gs.Variable(f"{tensor.name}.outside_{index}", tensor.dtype, tensor.shape)
    node = gs.Node("Identity", f"{_OUTSIDE}{tensor.name}_{index}", inputs=[tensor], outputs=[shown])
    graph.nodes.append(node)
    return shown


def _restored(graph: gs.Graph, old: gs.Tensor, shown: gs.Variable, others: list[gs.Tensor]) -> gs.Tensor:
    """What takes the place of `old`: what the Identity reads by now, or its own output where that is spoken for.

    `others` are the other outputs: what makes one of them keeps its name, whichever of the two comes first.
    """
    node = shown.inputs[0]
    made = node.inputs[0]
    if made is not old and (not made.inputs or any(made is other for other in (*others, *graph.inputs))):
        shown.name, old.name = old.name, f"{old.name}.before"
        return shown
    graph.nodes.remove(node)
    node.inputs.clear()
    node.outputs.clear()
    if made is not old:
        made.name, old.name = old.name, f"{old.name}.before"
        made.dtype, made.shape = old.dtype, old.shape
    return made
