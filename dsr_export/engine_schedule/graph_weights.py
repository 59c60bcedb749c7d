"""The weights of a graph's products: their sizes, and what they are asked to be multiplied in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from dsr_export.engine_schedule.graph_sites import GraphSites, int_attribute
from dsr_export.engine_schedule.operand_types import plan_type

_LIKE = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear", "Identity"})
"""What leaves the sizes of its first input as they are."""


@dataclass(frozen=True)
class Weight:
    """Of one node: `rows` are summed over, `columns` come out. `type` is None where codes are multiplied."""

    node: str
    rows: int
    columns: int
    type: str | None

    @property
    def count(self) -> int:
        return self.rows * self.columns


def graph_weights(sites: GraphSites) -> dict[str, Weight]:
    """Node -> its weight: of each MatMul and Gemm with one, and of convolutions that are one product for each patch.

    Weights whose sizes the graph does not tell are left out, and stacks of several matrices.
    """
    dims, chosen = _Dims(sites.model), sites.chosen()
    found = dict[str, Weight]()
    for node, name in _operands(sites):
        sizes, kind = dims.of(name), sites.element(name)
        if sizes is None or len(sizes) < 2 or (node.op_type != "Conv" and math.prod(sizes[:-2]) != 1):
            continue
        rows, columns = _matrix(node, name, sizes)
        told = None if node.name in chosen or kind is None else plan_type(kind)
        found[node.name] = Weight(node.name, rows, columns, told)
    return found


def _operands(sites: GraphSites) -> Iterator[tuple[onnx.NodeProto, str]]:
    weighted = frozenset(sites.weight_gemms())
    for node in sites.model.graph.node:
        if node.name in weighted:
            yield node, next(name for name in node.input[:2] if name in sites.fixed)
        elif node.op_type == "Conv" and node.input[1] in sites.fixed and int_attribute(node, "group") in (None, 1):
            yield node, node.input[1]


def _matrix(node: onnx.NodeProto, name: str, sizes: Sequence[int]) -> tuple[int, int]:
    if node.op_type == "Conv":
        return math.prod(sizes[1:]), sizes[0]
    first = name == node.input[0]
    swapped = first != bool(int_attribute(node, "transA" if first else "transB"))
    return (sizes[-1], sizes[-2]) if swapped else (sizes[-2], sizes[-1])


class _Dims:
    """Sizes of a graph's fixed tensors."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._known: Mapping[str, Sequence[int]] = {each.name: each.dims for each in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}

    def of(self, name: str) -> list[int] | None:
        """None where nothing tells."""
        turns = list[Sequence[int]]()
        while name not in self._known:
            maker = self._makers.get(name)
            if maker is None or maker.op_type not in _LIKE | {"Transpose"}:
                return None
            if maker.op_type == "Transpose":
                turns.append(next((each.ints for each in maker.attribute if each.name == "perm"), ()))
            name = maker.input[0]
        sizes = list(self._known[name])
        for turn in reversed(turns):
            if sorted(turn) != list(range(len(sizes))):
                return None
            sizes = [sizes[axis] for axis in turn]
        return sizes
