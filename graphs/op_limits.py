"""What a TensorRT engine cannot hold: ops by type, and uses of an op that only its attributes or constants reveal.

Measured on TensorRT-RTX 1.7.1, one op at a time; the same limits hold for TensorRT 10 and 11 except `RTX_MISSING`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

TOPK_LARGEST = 3840
ELEMENT = onnx.TensorProto


def _table(*groups: tuple[str, str]) -> Mapping[str, str]:
    return MappingProxyType({op: reason for ops, reason in groups for op in ops.split()})


ENGINE_OPS: Mapping[str, str] = _table(
    (
        "NonZero NonMaxSuppression Unique Compress",
        "the shape of its output depends on data; use Where or a mask of fixed shape, or TopK with a constant k",
    ),
    (
        "If Loop Scan",
        "control flow builds but prevents CUDA graphs, so static ops only; unroll it, or compute both branches and "
        "choose with Where",
    ),
    (
        "DynamicQuantizeLinear",
        "it takes its scale from the data; calibrate, and use QuantizeLinear with a constant scale",
    ),
    (
        "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial",
        "it draws its own random numbers, so no two runtimes agree; make the noise an input of the model",
    ),
    (
        "SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap "
        "SplitToSequence ConcatFromSequence Optional OptionalGetElement OptionalHasElement",
        "an engine holds tensors only, no sequences or optionals; use Split, Concat and Stack of fixed number",
    ),
    (
        "StringConcat StringNormalizer StringSplit RegexFullMatch TfIdfVectorizer ImageDecoder",
        "an engine holds numbers only; do this step outside the model",
    ),
    (
        "ConvInteger MatMulInteger QLinearConv QLinearMatMul",
        "the parser takes no operator-oriented quantisation; put QuantizeLinear and DequantizeLinear around the "
        "float op",
    ),
)
"""Op type -> why no TensorRT engine takes it, and the way out."""

RTX_MISSING: Mapping[str, str] = _table(
    (
        "AffineGrid BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im CumProd DFT "
        "DeformConv Det MaxRoiPool MaxUnpool MelWeightMatrix NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss SwiGLU",
        "TensorRT-RTX has no such op; write it with arithmetic, MatMul, Gather or Where",
    ),
)
"""Ops that the parser of TensorRT-RTX 1.7.1 says it does not support, and that no other entry explains."""


class GraphConstants:
    """Constants and element types of a model, looked up by tensor name. `folder` holds the external data, if any."""

    def __init__(self, model: onnx.ModelProto, folder: str = "") -> None:
        self._model, self._folder = model, folder
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                self._tensors[node.output[0]] = _attribute(node, "value", onnx.TensorProto())

    def values(self, name: str) -> npt.NDArray[Any] | None:
        """The constant's values, or None where the tensor is computed or its data cannot be read here."""
        tensor = self._tensors.get(name)
        if (
            tensor is None
            or tensor.data_type == ELEMENT.UNDEFINED
            or (tensor.data_location == ELEMENT.EXTERNAL and not self._folder)
        ):
            return None
        return np.asarray(onnx.numpy_helper.to_array(tensor, base_dir=self._folder))

    def type(self, name: str) -> int | None:
        """The ONNX element type, where it is declared or can be inferred."""
        return self._tensors[name].data_type if name in self._tensors else self._types.get(name)

    @cached_property
    def _types(self) -> dict[str, int]:
        graph = onnx.shape_inference.infer_shapes(self._model).graph
        known = [*graph.input, *graph.output, *graph.value_info]
        return {value.name: value.type.tensor_type.elem_type for value in known}


Rule = Callable[[onnx.NodeProto, GraphConstants], str | None]


def _scatter(node: onnx.NodeProto, constants: GraphConstants) -> str | None:
    reduction = _attribute(node, "reduction", b"none")
    if reduction == b"none":
        return None
    return f"reduction '{reduction.decode()}' does not parse; use a one-hot MatMul, or Where and ReduceSum"


def _top_k(node: onnx.NodeProto, constants: GraphConstants) -> str | None:
    k = constants.values(node.input[1])
    if k is None or int(k.max()) <= TOPK_LARGEST:
        return None
    return f"k is {int(k.max())}, and the largest that builds is {TOPK_LARGEST}; select in groups, or use fewer tokens"


def _zero_point(node: onnx.NodeProto, constants: GraphConstants) -> str | None:
    """UINT8 is silently read as INT8, also where a missing zero point means UINT8: wrong numbers without an error."""
    name = node.input[2] if len(node.input) > 2 else ""
    way_out = "quantise symmetrically: INT8 with zero point 0"
    if not name:
        made = _attribute(node, "output_dtype", ELEMENT.UINT8) if node.op_type == "QuantizeLinear" else None
        return f"without a zero point it means UINT8; {way_out}" if made == ELEMENT.UINT8 else None
    if constants.type(name) == ELEMENT.UINT8:
        return f"UINT8 is silently treated as INT8; {way_out}"
    zero = constants.values(name)
    if zero is None or not np.any(zero.astype(np.float32)):
        return None
    return f"its zero point is not 0; {way_out}"


def _attention(node: onnx.NodeProto, constants: GraphConstants) -> str | None:
    if node.input[0] == node.input[1]:
        return "one tensor as query and key crashes the builder; put an Identity before one of them"
    if constants.type(node.input[0]) == ELEMENT.FLOAT:
        return "Attention in FP32 does not build; use FP16 or BF16, or MatMul, Softmax and MatMul"
    return None


ENGINE_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "ScatterElements": _scatter,
        "ScatterND": _scatter,
        "TopK": _top_k,
        "QuantizeLinear": _zero_point,
        "DequantizeLinear": _zero_point,
        "Attention": _attention,
    }
)


def limited_uses(model: onnx.ModelProto, folder: str = "") -> Iterable[tuple[onnx.NodeProto, str]]:
    """Nodes whose op is supported but not as it is used here, each with the reason and the way out."""
    constants = GraphConstants(model, folder)
    for node in model.graph.node:
        rule = ENGINE_RULES.get(node.op_type)
        if rule is not None and (problem := rule(node, constants)):
            yield node, problem


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)
