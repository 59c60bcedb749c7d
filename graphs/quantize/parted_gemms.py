"""An integer GEMM whose channels are parted behind it becomes one GEMM for each part, so that no runtime copies them
apart.

    Split((x W) * rows + b)  ->  (x W_1) * rows + b_1, (x W_2) * rows + b_2

ONNX Runtime spends 3 % of an INT8 model's time on cutting up the output of gated MLPs. An engine does what lies behind
the product for all parts at once, and its form is left alone.
Constraints: nothing else reads the whole, and every part is wide enough to fill a device by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.outside_readers import only_reader, outside_readers
from graphs.quantize.formats import INT8
from graphs.structure.flow import made_by
from graphs.weights.stored import StoredValues

NARROWEST_PART = 512
_BEHIND = {"Mul": "rows_back", "Add": "biased"}
"""Operators that a product's rows and bias are, and the roles by which `graphs.mixed_precision` knows them."""


@dataclass(frozen=True)
class _Parted:
    """A GEMM of codes, what is multiplied by and added behind it (the other operands, in order), and the Split."""

    gemm: gs.Node
    behind: Sequence[tuple[gs.Node, gs.Tensor]]
    split: gs.Node


def part_gemms(graph: gs.Graph) -> int:
    """Parts the GEMMs of codes in `graph` that can be, in place; returns how many. Needs inferred shapes."""
    with outside_readers(graph):
        found = [parted for node in graph.nodes if (parted := _parted(node)) is not None]
        for each in found:
            _part(graph, each)
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return len(found)


def _parted(gemm: gs.Node) -> _Parted | None:
    if gemm.op != "MatMul" or not _multiplies_codes(gemm):
        return None
    behind: list[tuple[gs.Node, gs.Tensor]] = []
    made, reader = gemm.outputs[0], only_reader(gemm.outputs[0])
    while reader is not None and reader.op in _BEHIND:
        other = next(tensor for tensor in reader.inputs if tensor is not made)
        if not (_is_vector(other) or _is_column(other)):
            return None
        behind.append((reader, other))
        made, reader = reader.outputs[0], only_reader(reader.outputs[0])
    return _Parted(gemm, behind, reader) if reader is not None and _parts_channels(reader) else None


def _multiplies_codes(gemm: gs.Node) -> bool:
    """Whether both its operands are INT8, those of its weight stored."""
    x, weight = (made_by(tensor, "DequantizeLinear") for tensor in gemm.inputs)
    quantize = None if x is None else made_by(x.inputs[0], "QuantizeLinear")
    if x is None or weight is None or quantize is None or not isinstance(quantize.inputs[1], gs.Constant):
        return False
    return isinstance(weight.inputs[0], gs.Constant) and weight.inputs[0].dtype == x.inputs[0].dtype == INT8.dtype


def _is_vector(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and len(tensor.shape) == 1 and tensor.shape[0] > 1


def _is_column(tensor: gs.Tensor) -> bool:
    """Whether it has one number for all channels of a row."""
    return tensor.shape is not None and (len(tensor.shape) == 0 or tensor.shape[-1] == 1)


def _parts_channels(node: gs.Node) -> bool:
    if node.op != "Split" or node.inputs[0].shape is None:
        return False
    last = len(node.inputs[0].shape) - 1
    widths = [None if part.shape is None else part.shape[-1] for part in node.outputs]
    return node.attrs.get("axis", 0) in (-1, last) and all(
        isinstance(width, int) and width >= NARROWEST_PART for width in widths
    )


def _part(graph: gs.Graph, parted: _Parted) -> None:
    parts = list(parted.split.outputs)
    ends = accumulate((part.shape[-1] for part in parts), initial=0)
    parted.split.outputs.clear()
    x, weight = (tensor.inputs[0] for tensor in parted.gemm.inputs)
    name = str(parted.gemm.name).removesuffix("/MatMul").removesuffix("/Gemm")
    quantize = x.inputs[0].inputs[0]
    for i, (part, (start, end)) in enumerate(zip(parts, pairwise(ends), strict=True)):
        build, columns = NodeBuilder(graph, "quantize", f"{name}/part_{i}"), slice(start, end)
        step = _step(quantize) if i == 0 else _next_step(quantize)  # the whole is gone
        inputs = [_own_codes(build, quantize, step), _own_weight(build, weight, columns)]
        made = gs.Variable(f"{name}/part_{i}.product", part.dtype, part.shape)
        graph.nodes.append(gs.Node("MatMul", f"{name}/part_{i}", inputs=inputs, outputs=[made]))
        for node, other in parted.behind:
            given = build.constant("channels", other.values[columns]) if _is_vector(other) else other
            made = build.op(node.op, [made, given], _BEHIND[node.op])
            made.dtype, made.shape = part.dtype, part.shape
        made.inputs[0].outputs = [part]


def _next_step(quantize: gs.Node) -> np.float32:
    """One that no other codes of the same tensor have: ONNX Runtime merges quantisers that are equal."""
    alike = [node for node in quantize.inputs[0].outputs if node.op == "QuantizeLinear"]
    return np.float32(np.nextafter(max(_step(node) for node in alike), np.float32(np.inf)))


def _step(quantize: gs.Node) -> np.float32:
    return np.float32(quantize.inputs[1].values.item())


def _own_codes(build: NodeBuilder, quantize: gs.Node, step: np.float32) -> gs.Variable:
    """The values of codes that one GEMM alone reads, which ONNX Runtime wants for its integer kernels."""
    given = [build.constant("step", np.array(step)), quantize.inputs[2]]
    codes = build.op("QuantizeLinear", [quantize.inputs[0], *given], "codes")
    codes.dtype = quantize.outputs[0].dtype
    values = build.op("DequantizeLinear", [codes, *given], "values")
    values.dtype = np.dtype(np.float32)
    return values


def _own_weight(build: NodeBuilder, weight: gs.Node, columns: slice) -> gs.Variable:
    codes, steps, zero = weight.inputs
    own = build.constant("weight", np.zeros(0, zero.dtype))
    stored = codes._values
    own._values = stored.columns(columns) if isinstance(stored, StoredValues) else codes.values[:, columns].copy()
    given = [build.constant(role, each.values[columns]) for role, each in (("weight_steps", steps), ("zero", zero))]
    values = build.op("DequantizeLinear", [own, *given], "dequantized_weight", axis=1)
    values.dtype = np.dtype(np.float32)
    return values
