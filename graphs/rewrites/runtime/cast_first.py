"""`Cast` of all that is made of a tensor by moving its numbers -> `Cast` of the tensor.

    before  sum (FP32) -> Split -> Reshape -> Transpose -> Cast (FP16), and Split, Reshape -> Cast for its pairs
    after   sum -> Cast -> Split -> Reshape -> Transpose, Split, Reshape in FP16

Moves keep the type that they are given, so a typed graph casts behind them, each path on its own: where a GEMM hands on
FP32, as INT8 ones do. Rounding and moving commute: bit for bit the same, in one cast. What is behind is then what it is
in an FP16 graph: rotations and attention are found.
Constraints: nobody reads the tensor, or what is moved of it, in another type.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.names import own_name, site_of
from graphs.rewrite import Match, Miss
from graphs.structure.movers import MOVERS

_MOVES = MOVERS - {"Shape", "Pad", "Identity"}  # of other types, with a number of the type, and how outputs are shown


@dataclass(frozen=True)
class CastFirst:
    name: str = "cast_first"

    def match(self, node: gs.Node) -> Match | Miss | None:
        """The site is what makes the tensor."""
        if node.op in _MOVES or len(node.outputs) != 1 or node.outputs[0].dtype != np.float32:
            return None
        moves, casts, others = _read(node.outputs[0])
        if not moves or not casts:
            return None
        if others or len({cast.attrs["to"] for cast in casts}) > 1:
            return Miss("it is read in other types as well", node.name)
        return Match(node, {"moves": moves, "casts": casts})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, (old,), casts = match.node, match.node.outputs, match.found["casts"]
        readers, to = list(old.outputs), casts[0].attrs["to"]
        first = NodeBuilder(graph, "runtime", site_of(node)).op("Cast", [old], f"{own_name(node)}.first", to=to)
        first.dtype, first.shape = onnx.helper.tensor_dtype_to_np_dtype(to), old.shape
        _hand_on(old, first, readers)
        for made in (made for move in match.found["moves"] for made in move.outputs):
            made.dtype = first.dtype
        for cast in casts:
            _hand_on(cast.outputs[0], cast.inputs[0], list(cast.outputs[0].outputs))


def _hand_on(old: gs.Tensor, new: gs.Tensor, readers: list[gs.Node]) -> None:
    for reader in readers:
        reader.inputs = [new if tensor is old else tensor for tensor in reader.inputs]


def _read(tensor: gs.Tensor) -> tuple[list[gs.Node], list[gs.Node], list[gs.Node]]:
    """The moves of a tensor, the casts that they end in, and whatever else reads it or what is moved."""
    moves: list[gs.Node] = []
    casts: list[gs.Node] = []
    others: list[gs.Node] = []
    pending = [tensor]
    while pending:
        moved = pending.pop()
        for reader in moved.outputs:
            if reader.op in _MOVES and reader.inputs[0] is moved:
                moves.append(reader)
                pending += reader.outputs
            elif reader.op != "Shape":
                (casts if reader.op == "Cast" else others).append(reader)
    return moves, casts, others
