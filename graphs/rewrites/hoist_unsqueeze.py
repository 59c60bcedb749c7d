"""`Split(x)` -> one Unsqueeze behind each output   becomes   `Unsqueeze(x)` -> Split.

AdaLN makes six vectors of one [batch, 6 * D], and gives each a token axis of its own: seven nodes, now two. The values
are the same.
Constraints: all that reads the outputs are Unsqueezes of the same one axis, in front of the split one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, replace_output
from graphs.constants import constant_value
from graphs.names import own_name, site_of
from graphs.rewrite import Match, Miss


@dataclass(frozen=True)
class HoistUnsqueeze:
    name: str = "hoist_unsqueeze"

    def match(self, node: gs.Node) -> Match | Miss | None:
        readers = [reader for output in node.outputs for reader in output.outputs]
        longer = [reader for reader in readers if reader.op == "Unsqueeze"]
        if node.op != "Split" or len(longer) < 2:
            return None
        if len(longer) < len(readers):
            other = next(reader for reader in readers if reader.op != "Unsqueeze")
            return Miss(f"{other.name} reads it without a new axis", node.name)
        rank = len(node.inputs[0].shape or ())
        axes, axis = {_axis(reader, rank) for reader in longer}, int(node.attrs.get("axis", 0)) % max(rank, 1)
        added = axes.pop()
        if axes or added is None or added > axis:
            return Miss("its readers do not add the same axis, in front of the split one", node.name)
        return Match(node, {"axis": axis, "added": added})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, added = match.node, match.found["added"]
        build, own = NodeBuilder(graph, "optimize", site_of(node)), own_name(node)
        x = build.op("Unsqueeze", [node.inputs[0], build.ints(f"{own}.axis", added)], f"{own}.unsqueezed")
        attributes = node.attrs | {"axis": match.found["axis"] + 1}
        parts = build.ops("Split", [x, *node.inputs[1:]], f"{own}.parts", outputs=len(node.outputs), **attributes)
        for part, output in zip(parts, node.outputs, strict=True):
            for reader in list(output.outputs):
                _copy_type(part, reader.outputs)
                replace_output(reader, part, graph)


def _axis(unsqueeze: gs.Node, rank: int) -> int | None:
    """The axis it adds, counted from the front of its output; None where it is not one constant."""
    axes = constant_value(unsqueeze.inputs[1])
    return int(axes.item()) % (rank + 1) if axes is not None and axes.size == 1 and rank else None


def _copy_type(part: gs.Variable, outputs: Iterable[gs.Variable]) -> None:
    for output in outputs:
        part.dtype, part.shape = output.dtype, output.shape
