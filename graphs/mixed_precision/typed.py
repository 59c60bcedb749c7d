"""OptimizedModel -> TypedModel: precision written into the graph as casts and half initialisers.

TensorRT builds strongly typed networks only, so what the graph says is what runs. Graph inputs and outputs stay FP32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from graphs.artifacts import OptimizedModel, QuantizedModel, TypedModel
from graphs.builders import NodeBuilder
from graphs.files import load_inferred_graph, load_model, save_graph
from graphs.mixed_precision.islands import PrecisionPolicy, fp32_islands
from graphs.precisions import FLOAT, FLOAT4, PRECISIONS, Precision
from graphs.quantize.code_forms import FormedCodes, form_codes, wide_products
from graphs.quantize.pairing import paired_quantizers
from graphs.stage_specs import (
    DYNAMIC_FOUR_BIT,
    StageSpec,
    defined_inputs,
    engine_ops,
    standard_ops,
    static_ops,
    unique_names,
)
from graphs.structure.movers import MOVERS
from graphs.weights.element_types import low_precision_fraction, typed_weights
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TypingReport:
    """`islands`: node -> why it computes in FP32. `half_fraction`: share of float weight bytes in the low type.
    `codes`: what became in this form of GEMMs that were chosen for codes."""

    precision: Precision
    islands: Mapping[str, str]
    half_fraction: float
    casts: int
    codes: FormedCodes

    def as_dict(self) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "half_weight_fraction": self.half_fraction,
            "casts": self.casts,
            "fp32_nodes": len(self.islands),
            "in_floats": list(self.codes.in_floats),
            "coded_products": list(self.codes.coded_products),
            "fp32_reasons": dict(Counter(self.islands.values()).most_common()),
        }


def assign_precision(
    source: OptimizedModel | QuantizedModel, path: Path, precision: Precision, policy: PrecisionPolicy
) -> tuple[TypedModel, TypingReport]:
    """Types every node, casts where types meet, and verifies that the weights really have the type asked for.

    Raises:
        ExportError: a weight of a low-precision GEMM or convolution is not in the low type afterwards.
    """
    graph = load_inferred_graph(source.path)
    record = PRECISIONS[precision]
    policy = replace(policy, wide_tensors=wide_products(graph, policy.wide_tensors))
    codes = form_codes(graph, for_engines=policy.narrow_products, wide=policy.wide_tensors)
    islands = fp32_islands(graph.toposort(), policy, record.held) if record.narrow else {}
    casts = _Typing(graph, record.around, islands).run() if record.narrow else 0
    save_graph(graph, path)
    model = load_model(path, weights=False)
    typed_spec(precision, islands).verify(model)
    fraction = low_precision_fraction(model, precision)
    report = TypingReport(precision, islands, fraction, casts, codes)
    return TypedModel(path=path, precision=precision), report


def typed_spec(precision: Precision, islands: Mapping[str, str]) -> StageSpec:
    """Every weight of a GEMM or convolution outside the islands has the low type; graph I/O is FP32."""
    wanted = PRECISIONS[precision].weight_types

    def weights(model: onnx.ModelProto) -> list[str]:
        return [
            f"{weight.node} has {onnx.TensorProto.DataType.Name(weight.type)} weights in a {precision} graph"
            for weight in typed_weights(model)
            if weight.type not in wanted and weight.node not in islands
        ]

    def boundary(model: onnx.ModelProto) -> list[str]:
        values = [*model.graph.input, *model.graph.output]
        low = {record.around for record in PRECISIONS.values() if record.narrow}
        return [f"{value.name} is not FP32" for value in values if value.type.tensor_type.elem_type in low]

    ops = engine_ops if FLOAT4 in PRECISIONS[precision].narrow_types else standard_ops
    checks = (unique_names, defined_inputs, ops, static_ops, weights, boundary, paired_quantizers)
    return StageSpec("typed", checks)


class _Typing:
    """One walk over the graph in topological order, remembering each float tensor's type."""

    def __init__(self, graph: gs.Graph, low: int, islands: Mapping[str, str]) -> None:
        self._graph, self._low, self._islands = graph, low, islands
        self._float = {id(t) for t in graph.tensors().values() if _is_float(t)}
        self._type: dict[int, int] = {}
        self._converted: dict[tuple[int, int], gs.Tensor] = {}
        self._build = NodeBuilder(graph, "type", "cast")

    def run(self) -> int:
        """Types all nodes; returns the number of casts made."""
        before = len(self._graph.nodes)
        self._graph.toposort()
        for node in list(self._graph.nodes):
            self._visit(node)
        self._restore_outputs()
        return len(self._graph.nodes) - before

    def _visit(self, node: gs.Node) -> None:
        if not any(id(tensor) in self._float for tensor in [*node.inputs, *node.outputs]):
            return
        wanted = self._node_type(node)
        kept = node.inputs[1:] if node.op == DYNAMIC_FOUR_BIT else ()  # its unit is FP32, whatever it reads
        node.inputs = [self._as(t, wanted) if id(t) in self._float and t not in kept else t for t in node.inputs]
        for tensor in node.outputs:
            if id(tensor) in self._float:
                self._type[id(tensor)] = wanted
                tensor.dtype = _numpy_type(wanted)
        if node.op == "Cast" and node.attrs["to"] == FLOAT:
            node.attrs["to"] = wanted

    def _node_type(self, node: gs.Node) -> int:
        if node.name in self._islands:
            return FLOAT
        if node.op in MOVERS and node.inputs and isinstance(node.inputs[0], gs.Variable):
            return self._type.get(id(node.inputs[0]), FLOAT)
        return self._low

    def _as(self, tensor: gs.Tensor, wanted: int) -> gs.Tensor:
        key = (id(tensor), wanted)
        if self._type.get(id(tensor), FLOAT) == wanted:
            return tensor
        if key not in self._converted:
            self._converted[key] = self._convert(tensor, wanted)
        return self._converted[key]

    def _convert(self, tensor: gs.Tensor, wanted: int) -> gs.Tensor:
        suffix = onnx.TensorProto.DataType.Name(wanted).lower()
        if isinstance(tensor, gs.Constant):
            return gs.Constant(f"{tensor.name}.{suffix}", _cast_values(tensor, wanted))
        cast = self._build.op("Cast", [tensor], f"{tensor.name}.{suffix}", to=wanted)
        cast.dtype, cast.shape = _numpy_type(wanted), tensor.shape
        self._type[id(cast)] = wanted
        return cast

    def _restore_outputs(self) -> None:
        """A graph output of low type gets a cast behind it, under its own name."""
        for i, output in enumerate(list(self._graph.outputs)):
            if self._type.get(id(output), FLOAT) != FLOAT:
                name, output.name = output.name, f"{output.name}.low"
                cast = self._convert(output, FLOAT)
                cast.name = name
                self._graph.outputs[i] = cast


def _is_float(tensor: gs.Tensor) -> bool:
    return tensor.dtype is not None and tensor.dtype == np.float32


def _numpy_type(elem_type: int) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(elem_type)


def _cast_values(constant: gs.Constant, wanted: int) -> Array | StoredValues:
    """The values in the type `wanted`; those in a file stay there and are converted when they are written.

    What the type cannot hold stays FP32 with its node (see `held_values`).
    """
    if isinstance(constant._values, StoredValues):
        return constant._values.as_type(wanted)
    return np.asarray(constant.values.astype(_numpy_type(wanted)))
