"""`tokens -> blocks -> out` becomes `[tokens, zeros] -> blocks -> out without the last rows`: room for registers.

What lies between was exported for N tokens. Shapes that a Reshape or an Expand is given are written anew; what else
depends on N is refused with the node's name (see `graphs.structure.token_axes`).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, redirect
from graphs.errors import ExportError
from graphs.retrofit.grown_tables import Growth, growth_of
from graphs.structure.flow import Flow, axis_of, describe, producer, source
from graphs.structure.norm_reads import NORMS
from graphs.structure.pinned_shapes import is_batch
from graphs.structure.residual_stream import Stream
from graphs.structure.token_axes import output_marks
from graphs.structure.token_axis import CannotFollow, Marks, TokenAxis
from graphs.structure.token_moves import ENDLESS, ends_with_the_tokens

Shapes = dict[str, tuple[int, ...]]


def append_rows(graph: gs.Graph, stream: Stream, rows: int) -> Shapes:
    """Appends `rows` zero rows before the first block of a pinned graph and drops them behind the last.

    Changes `graph`. Returns the shape that each tensor must have now, by name: longer between the two, else as before.
    An inference of the changed graph is to find the same.

    Raises:
        ExportError: the number of tokens changes in mid-stream, or a node does not take another one; it is named.
    """
    tokens = _one_count(stream)
    entry, end = _entry(graph, source(stream.blocks[0].entry)), stream.blocks[-1].output
    nodes = list(graph.nodes)
    ours = {id(node) for node in Flow(graph).between(entry, end)}
    longer = _append(graph, entry, [node for node in entry.outputs if id(node) in ours], rows)
    walk = _Walk(tokens, rows)
    walk.marks[id(longer)] = {1: TokenAxis()}
    for node in nodes:
        walk.visit(node, last=end)
    _drop(graph, end, tokens)
    walk.write()
    return walk.shapes(graph)


def _one_count(stream: Stream) -> int:
    tokens = stream.blocks[0].tokens
    for block in stream.blocks:
        if block.tokens != tokens:
            raise ExportError(
                f"test-time registers: block {block.name} has {block.tokens} tokens where {stream.blocks[0].name} has "
                f"{tokens}; they must be the same rows from the first block to the last",
                hint="a model whose tokens change in mid-stream takes them in PyTorch (dsr_export.registers)",
            )
    return tokens


def _entry(graph: gs.Graph, entry: gs.Tensor) -> gs.Tensor:
    """What enters the blocks; where a norm makes it (CLIP's), what that norm reads: registers pass it like all rows."""
    norm = producer(entry)
    if norm is None or norm.op not in NORMS or norm.inputs[0].shape is None:
        return entry
    return source(norm.inputs[0])


def _append(graph: gs.Graph, entry: gs.Tensor, readers: Sequence[gs.Node], rows: int) -> gs.Variable:
    build = NodeBuilder(graph, "insert", "registers")
    longer = build.op("Pad", [entry, build.ints("pads", 0, 0, 0, 0, rows, 0)], "append")
    longer.dtype, longer.shape = entry.dtype, tuple(entry.shape)
    for reader in readers:
        reader.inputs = [longer if tensor is entry else tensor for tensor in reader.inputs]
    return longer


def _drop(graph: gs.Graph, end: gs.Variable, tokens: int) -> None:
    build, readers = NodeBuilder(graph, "insert", "registers"), list(end.outputs)
    bounds = [build.ints("first", 0), build.ints("end", tokens), build.ints("token_axis", 1)]
    kept = build.op("Slice", [end, *bounds], "drop")
    kept.dtype, kept.shape = end.dtype, end.shape
    redirect(end, kept, graph, readers)


class _Walk:
    """Follows the tokens through a graph whose shapes are still those of N tokens, and notes what must change."""

    def __init__(self, tokens: int, rows: int) -> None:
        self.marks: dict[int, Marks] = {}
        self._tokens, self._longer = tokens, tokens + rows
        self._ended = False
        self._shapes: list[tuple[gs.Node, list[int]]] = []
        self._splits: list[tuple[gs.Node, list[int]]] = []
        self._ends: list[tuple[gs.Node, list[int]]] = []
        self._growths: list[tuple[gs.Node, Growth]] = []

    def visit(self, node: gs.Node, *, last: gs.Variable) -> None:
        marks = [self.marks.get(id(tensor), {}) for tensor in node.inputs]
        if not any(marks) or any(tensor is last for tensor in node.inputs):
            return  # behind the last block the rows are gone
        growth = growth_of(node, marks, self._tokens)
        if growth is not None:
            self._growths.append((node, growth))
            marks = [
                growth.axes if tensor is growth.tensor else its for tensor, its in zip(node.inputs, marks, strict=True)
            ]
        try:
            made = output_marks(node, marks, self._tokens)
            if node.op in ("Reshape", "Expand"):
                self._shapes.append((node, self._asked(node, made[0])))
            if node.op == "Split" and axis_of(node, len(node.inputs[0].shape), 0) in marks[0]:
                axis = axis_of(node, len(node.inputs[0].shape), 0)
                sizes = [self._size(tensor.shape, its) for tensor, its in zip(node.outputs, made, strict=True)]
                self._splits.append((node, [size[axis] for size in sizes]))
        except CannotFollow as reason:
            raise ExportError(
                f"test-time registers: {node.name} was exported for {self._tokens} tokens: {reason}", hint=_HINT
            ) from None
        if node.op == "Slice" and (ends := ends_with_the_tokens(node, marks, self._tokens)) is not None:
            self._ends.append((node, [ENDLESS if end == -1 else end for end in ends]))
        for tensor, its in zip(node.outputs, made, strict=True):
            self.marks[id(tensor)] = its

    def _asked(self, node: gs.Node, made: Marks) -> list[int]:
        """The shape operand for the longer sequence: the batch is -1 in a Reshape, and 1 keeps a size in an Expand."""
        whole = self._size(node.outputs[0].shape, made)
        if node.op == "Expand":
            before = [1] * (len(whole) - len(node.inputs[0].shape)) + list(node.inputs[0].shape)
            asked = [1 if size != 1 else after for size, after in zip(before, whole, strict=True)]
        else:
            asked = [-1 if is_batch(size) else size for size in whole]
        if asked.count(-1) > 1 or any(is_batch(size) for size in asked):
            raise CannotFollow(f"its shape {describe(whole)} depends on the batch in more than one way")
        return asked

    def _size(self, shape: Sequence[int], marks: Marks) -> list[int]:
        return [marks[axis].size(self._longer) if axis in marks else size for axis, size in enumerate(shape)]

    def write(self) -> None:
        """Gives the nodes that name a shape the new one; each its own constant, since they share the old ones."""
        for node, asked in self._shapes:
            build = NodeBuilder(gs.Graph(), "insert", node.name)
            node.inputs[1] = build.ints("shape", *asked)
        for node, sizes in self._splits:
            build = NodeBuilder(gs.Graph(), "insert", node.name)
            node.inputs = [node.inputs[0], build.ints("split", *sizes)]
            node.attrs.pop("split", None)
        for node, ends in self._ends:
            node.inputs[2] = NodeBuilder(gs.Graph(), "insert", node.name).ints("ends", *ends)
        for node, growth in self._growths:
            build = NodeBuilder(gs.Graph(), "insert", node.name)
            grown = build.constant("table", growth.grown(self._tokens, self._longer - self._tokens))
            node.inputs = [grown if tensor is growth.tensor else tensor for tensor in node.inputs]

    def shapes(self, graph: gs.Graph) -> Shapes:
        """Raises `ExportError` where an output of the graph would have another shape than before."""
        for tensor in graph.outputs:
            if self.marks.get(id(tensor)):
                raise ExportError(
                    f"test-time registers: the output '{tensor.name}' {describe(tensor.shape)} is taken from between "
                    "the blocks, and would hold the registers",
                    hint="export the model without that output",
                )
        known = [t for t in graph.tensors().values() if isinstance(t, gs.Variable) and t.shape is not None]
        return {str(t.name): tuple(self._size(t.shape, self.marks.get(id(t), {}))) for t in known}


_HINT = (
    "export the model with registers in PyTorch (dsr_export.registers), or with a token count that follows from its "
    "inputs' shapes"
)
