"""A gated MLP's two halves as two GEMMs over flat rows, the second of which takes gate and product along.

    before  x W12 -> Add(b12) -> Split(gate, value) -> act(gate) * value -> next GEMM
    after   value = (-x) (-W2) + b2;  act(x W1 + b1) * value, over rows [B * N, D]

An engine computes bias, activation and product in the epilogue of the first GEMM, so that the [B, N, 2H] tensor is
never written and read back: the largest pointwise kernel of a block is gone. Over three axes its GEMMs take no
epilogue, and two GEMMs that read the same tensor are merged into one again: hence the sign, which is exact.
Constraints: constant weights, and activations that work element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, redirect
from graphs.constants import constant_value
from graphs.names import own_name, site_of
from graphs.outside_readers import only_reader
from graphs.rewrite import Match, Miss
from graphs.structure.flow import producer
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
ELEMENTWISE = frozenset({"Sigmoid", "Mul", "Add", "Sub", "Div", "Tanh", "Erf", "Gelu", "Relu", "Neg", "Pow", "Cast"})


@dataclass(frozen=True)
class PartGates:
    name: str = "part_gates"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "Split" or len(node.outputs) != 2:
            return None
        bias = producer(node.inputs[0])
        product = None if bias is None or bias.op != "Add" else _product(bias)
        if bias is None or product is None:
            return None
        x, weight, added = product
        if not _halves(node) or only_reader(node.inputs[0]) is None or only_reader(_other(bias)) is None:
            return Miss("its channels are not two halves that it alone reads", node.name)
        if not isinstance((x.shape or (None, None))[1], int):
            return Miss("its rows have no fixed number", node.name)
        region = _region(node)
        if region is None:
            return Miss("its halves do not meet behind activations that nothing else reads", node.name)
        return Match(node, {"x": x, "weight": weight, "bias": added, "region": region})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, x, (end, inside) = match.node, match.found["x"], match.found["region"]
        build, own = NodeBuilder(graph, "optimize", site_of(node.inputs[0].inputs[0])), own_name(node)
        rows = build.op("Reshape", [x, build.ints(f"{own}.rows", -1, x.shape[-1])], f"{own}.flat")
        minus = build.constant(f"{own}.minus", np.asarray(-1, x.dtype))
        mirrored = build.op("Mul", [rows, minus], f"{own}.mirrored")
        width = node.outputs[0].shape[-1]
        for i, (part, source) in enumerate(zip(node.outputs, (rows, mirrored), strict=True)):
            gemm = _gemm(build, f"{own}.part_{i}", source, match.found, slice(i * width, (i + 1) * width), (1, -1)[i])
            gemm.dtype = part.dtype
            redirect(part, gemm, graph, list(part.outputs))
        flat = gs.Variable(f"{end.name}.rows", end.dtype)
        end.inputs[0].outputs = [flat]
        for each in inside:
            each.outputs[0].shape = None  # two axes now
        folded = build.op("Reshape", [flat, build.ints(f"{own}.tokens", -1, *end.shape[1:])], f"{own}.gated")
        folded.inputs[0].outputs = [end]  # which may be a graph output, and keeps its name and shape


def _product(bias: gs.Node) -> tuple[gs.Tensor, gs.Constant, Array] | None:
    """x, W and b of `x W + b`, x [B, N, D]."""
    for made, other in (bias.inputs, bias.inputs[::-1]):
        gemm, added = producer(made), constant_value(other)
        if gemm is None or gemm.op != "MatMul" or added is None or added.ndim != 1:
            continue
        x, weight = gemm.inputs
        if not isinstance(weight, gs.Constant) or len(weight.shape) != 2 or added.size != weight.shape[1]:
            continue  # one number for all channels is no bias that could be cut in two
        if x.shape is not None and len(x.shape) == 3:
            return x, weight, added
    return None


def _other(bias: gs.Node) -> gs.Tensor:
    return next(tensor for tensor in bias.inputs if constant_value(tensor) is None)


def _halves(node: gs.Node) -> bool:
    widths = [None if part.shape is None else part.shape[-1] for part in node.outputs]
    return node.attrs.get("axis", 0) in (-1, 2) and widths[0] == widths[1] and isinstance(widths[0], int)


def _region(split: gs.Node) -> tuple[gs.Tensor, list[gs.Node]] | None:
    """The one tensor in which both halves end, and the activations before it, which nothing else reads."""
    inside: dict[int, gs.Node] = {}
    ends: list[dict[int, gs.Tensor]] = []
    for part in split.outputs:
        pending, found = [part], {}
        while pending:
            tensor = pending.pop()
            for reader in tensor.outputs:
                if reader.op in ELEMENTWISE and _elementwise(reader, tensor):
                    inside[id(reader)] = reader
                    pending.append(reader.outputs[0])
                else:
                    found[id(tensor)] = tensor
        ends.append(found)
    if ends[0].keys() != ends[1].keys() or len(ends[0]) != 1:
        return None
    (end,) = ends[0].values()
    own = {id(part) for part in split.outputs} | {id(node.outputs[0]) for node in inside.values()}
    closed = all(id(each) in own or _is_scalar(each) for node in inside.values() for each in node.inputs)
    return (end, list(inside.values())) if closed else None


def _elementwise(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether `node` combines tensors of the same shape, or one with a number."""
    return all(each is tensor or _is_scalar(each) or each.shape == tensor.shape for each in node.inputs)


def _is_scalar(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and int(np.prod(tensor.shape)) == 1 and len(tensor.shape) <= 1


def _gemm(build: NodeBuilder, role: str, x: gs.Tensor, found: Any, columns: slice, sign: int) -> gs.Variable:
    weight = build.constant(f"{role}.weight", np.zeros(0, np.float32))
    weight._values = _columns(found["weight"], columns, sign)
    product = build.op("MatMul", [x, weight], role)
    return build.op("Add", [product, build.constant(f"{role}.bias", found["bias"][columns])], f"{role}.biased")


def _columns(weight: gs.Constant, columns: slice, sign: int) -> Array | StoredValues:
    if isinstance(weight._values, StoredValues):
        part = weight._values.columns(columns)
        return part if sign > 0 else part.divided(np.asarray(sign))
    values = np.asarray(weight.values)[:, columns]
    return np.ascontiguousarray(values * np.asarray(sign, values.dtype))
