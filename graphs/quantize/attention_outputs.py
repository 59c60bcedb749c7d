"""A projection of what attention makes, back in floats where codes would only cost an engine a kernel.

    before  attention -> x / rows -> Q -> DQ -> MatMul(., DQ(w8)) -> * rows
    after   attention -> x -> MatMul(., w), w what the codes stand for

Attention is a kernel of its own, which cannot know the largest number of a whole row, since it has one head at a time.
So row factors take another kernel, that reads every row and writes it again: for few tokens that is more than the codes
of the weight spare (a row of [K] numbers costs 2 K bytes more, the weight [K, N] K N less). In floats the GEMM reads
what attention wrote, and its error is that of the weight alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.names import made_role, site_of
from graphs.outside_readers import only_reader, outside_readers
from graphs.precisions import FLOAT
from graphs.quantize.product_codes import CODES, VALUES
from graphs.quantize.quantizers import Activation, multiplies_codes
from graphs.structure.attended import is_attended
from graphs.structure.flow import made_by, producer
from graphs.weights.gemms import WeightGemm
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
LAUNCH = 1 << 18
"""What a launch in a CUDA graph costs, in bytes: 0.7 microseconds, at 375 GB/s."""


@dataclass(frozen=True)
class _Projection:
    """A GEMM of codes, the floats behind attention that its codes are made of, what gives its weight, and what lies
    behind its product for the codes' sake."""

    gemm: gs.Node
    attended: gs.Tensor
    weight: gs.Node
    behind: list[gs.Node]

    @property
    def names(self) -> set[str]:
        """Of what it reads and makes."""
        return {str(self.attended.name), str(self.behind[-1].outputs[0].name)}


def projects_floats(gemm: WeightGemm, activation: Activation) -> bool:
    """Whether `gemm`, with codes of such an input, is a projection that goes back to floats in an engine.

    Shapes must have been inferred.
    """
    has_rows = activation.format.is_code and activation.rows != "none"
    sizes = gemm.activation.shape[1:-1]
    return has_rows and is_attended(gemm.activation) and _is_small(gemm.in_features, gemm.out_features, sizes)


def project_floats(graph: gs.Graph, wide: Collection[str] = ()) -> list[str]:
    """Takes the codes of those projections away, in place; returns the GEMMs by their modules.

    None where no other GEMM has codes: the precision asked for is to be in what ships.
    Shapes must have been inferred. Tensors named in `wide` are beyond half: what reads or makes them keeps its codes.
    """
    with outside_readers(graph):
        known = [each for node in graph.nodes if (each := _projection(node)) is not None]
        found = [each for each in known if not each.names & set(wide) and _costs_more(each)]
        if len(found) == sum(multiplies_codes(node) for node in graph.nodes):
            found = []
        for each in found:
            _in_floats(graph, each)
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return [site_of(each.behind[-1]) for each in found]


def _projection(gemm: gs.Node) -> _Projection | None:
    """None where `gemm` is no such GEMM."""
    made = [made_by(tensor, "DequantizeLinear") for tensor in gemm.inputs] if gemm.op == "MatMul" else []
    if len(made) != 2 or made[0] is None or made[1] is None or not isinstance(made[1].inputs[0], gs.Constant):
        return None
    quantize = made_by(made[0].inputs[0], "QuantizeLinear")
    even = None if quantize is None else producer(quantize.inputs[0])
    if even is None or _role(even) != "even" or only_reader(even.outputs[0]) is None:
        return None
    behind = _behind(gemm)
    return _Projection(gemm, even.inputs[0], made[1], behind) if behind and is_attended(even.inputs[0]) else None


def _behind(gemm: gs.Node) -> list[gs.Node]:
    """What gives the product its rows back, and its own codes before that; none where that is not all there is."""
    nodes: list[gs.Node] = []
    reader = only_reader(gemm.outputs[0])
    while reader is not None and _role(reader) in (CODES, VALUES):
        nodes.append(reader)
        reader = only_reader(reader.outputs[0])
    return [*nodes, reader] if reader is not None and _role(reader) == "rows_back" else []


def _role(node: gs.Node) -> str | None:
    return made_role(str(node.name), "quantize")


def _costs_more(projection: _Projection) -> bool:
    """Whether codes cost more than they spare: for one sample, since weights are read once for a batch of few."""
    inputs, outputs = projection.weight.inputs[0].shape
    return _is_small(inputs, outputs, projection.attended.shape[1:-1])


def _is_small(inputs: int, outputs: int, sizes: Sequence[Any]) -> bool:
    known = all(isinstance(size, int) for size in sizes)
    return known and inputs * (outputs - 2 * math.prod(sizes)) <= LAUNCH


def _in_floats(graph: gs.Graph, projection: _Projection) -> None:
    gemm, behind = projection.gemm, projection.behind
    build = NodeBuilder(graph, "quantize", site_of(behind[-1]))
    weight = build.constant("float_weight", np.zeros(0, np.float32))
    weight._values = _dequantised(projection.weight)
    gemm.inputs = [projection.attended, weight]
    product = behind[-1].outputs[0]
    for node in behind:
        node.outputs.clear()
    gemm.outputs = [product]


def _dequantised(weight: gs.Node) -> Array | StoredValues:
    """What the codes stand for; those in a file stay there."""
    codes, steps = weight.inputs[0], np.asarray(weight.inputs[1].values, np.float32)
    if isinstance(codes._values, StoredValues):
        return codes._values.as_type(FLOAT).divided(1 / steps)
    return np.asarray(codes.values.astype(np.float32) * steps)
