"""`ScatterElements<reduction=add>(x, i, u)` at fixed places   becomes   `Add(x, Gather(Pad(u), j))`.

`x.scatter_add(1, places, u)` of a sequence that is packed from parts: TensorRT does not parse the scatter. j says for
each place which element of u is added there, or the zero behind the last. The sums are the same, bit for bit, but that
-0 + 0 is 0; and where u has every place in order, it is added as it is.
Constraints: the places are constant, alike along all other axes (which `expand` made), and none occurs twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, replace_output
from graphs.constants import constant_value
from graphs.names import own_name, site_of
from graphs.rewrite import Match, Miss

Places = npt.NDArray[Any]


@dataclass(frozen=True)
class GatherScatteredSums:
    name: str = "gather_scattered_sums"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "ScatterElements" or node.attrs.get("reduction", "none") != "add":
            return None
        x, updates = node.inputs[0].shape, node.inputs[2].shape
        if not x or not updates:
            return Miss("its shape is not known", node.name)
        axis = int(node.attrs.get("axis", 0)) % len(x)
        whole = [size for i, size in enumerate(x) if i != axis]
        if not isinstance(x[axis], int) or whole != [size for i, size in enumerate(updates) if i != axis]:
            return Miss("it adds to a part of the other axes", node.name)
        places = _places(node.inputs[1], axis, len(x))
        if places is None:
            return Miss("its places are no constants along one axis", node.name)
        places = places % x[axis]
        if len(np.unique(places)) < len(places):
            return Miss("a place occurs twice", node.name)
        return Match(node, {"axis": axis, "places": places, "size": x[axis]})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, axis, places = match.node, match.found["axis"], match.found["places"]
        build, own = NodeBuilder(graph, "optimize", site_of(node)), own_name(node)
        x, updates = node.inputs[0], node.inputs[2]
        rows = np.full(match.found["size"], len(places), np.int64)
        rows[places] = np.arange(len(places))
        if len(places) < len(rows):
            ends = build.ints(f"{own}.pads", 0, 1)
            updates = _typed(
                build.op("Pad", [updates, ends, gs.Variable.empty(), build.ints(f"{own}.axis", axis)], f"{own}.padded"),
                x,
            )
        if not np.array_equal(rows, np.arange(len(rows))):
            updates = _typed(
                build.op("Gather", [updates, build.constant(f"{own}.rows", rows)], f"{own}.gathered", axis=axis), x
            )
        replace_output(node, build.op("Add", [x, updates], f"{own}.sum"), graph)


def _places(indices: gs.Tensor, axis: int, rank: int) -> Places | None:
    """[N] positions along `axis`, the same everywhere else; None where they are anything else."""
    value = constant_value(indices)
    if value is None and indices.inputs and indices.inputs[0].op == "Expand":
        value = constant_value(indices.inputs[0].inputs[0])
        if value is not None and (value.ndim < rank - axis or value.shape[axis - rank] == 1):
            return None  # along the axis itself a place would occur twice
    if value is None or value.size == 0:
        return None
    value = value.reshape([1] * (rank - value.ndim) + list(value.shape))
    lines = np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)
    return lines[:, 0] if np.array_equal(lines, np.broadcast_to(lines[:, :1], lines.shape)) else None


def _typed(tensor: gs.Variable, like: gs.Tensor) -> gs.Variable:
    tensor.dtype = like.dtype
    return tensor
