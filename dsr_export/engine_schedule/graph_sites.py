"""What of the ONNX graph one looks for in a schedule: attentions, GEMMs with a weight, and what stays in FP32."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx

from dsr_export.engine_schedule.operand_types import operand_types, plan_type
from dsr_export.engine_schedule.unfused import AttentionSite
from graphs.names import is_made
from graphs.structure.movers import MOVERS

_PRODUCTS = frozenset({"MatMul", "Einsum", "Gemm"})
_BETWEEN = MOVERS | frozenset(
    ["Cast", "Add", "Sub", "Mul", "Div", "Where", "Neg", "Min", "Max", "Clip", "QuantizeLinear", "DequantizeLinear"]
)
"""What may stand between the products of an attention and its softmax: scales, masks, types."""
_TYPED = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})
"""What only changes how values are written."""


@dataclass(frozen=True)
class GraphSites:
    """Of one graph, whose nodes stand in topological order, as ONNX asks for."""

    model: onnx.ModelProto

    def attentions(self) -> list[str]:
        """Node names: each softmax between two products of activations, and each fused operator."""
        nodes = self.model.graph.node
        spelt = [node for node in nodes if node.op_type == "Softmax" and self._attends(node)]
        fused = [node for node in nodes if node.op_type in ("Attention", "MultiHeadAttention")]
        return [node.name for node in [*spelt, *fused]]

    def attention(self, name: str) -> AttentionSite:
        """What the graph tells of the attention whose softmax, or whose operator, is `name`; of Einsum only types."""
        node = next(node for node in self.model.graph.node if node.name == name)
        if node.op_type != "Softmax":
            return AttentionSite(name)
        before, after = (self._product(node, forward=each) for each in (False, True))
        kinds = [self._types[name] for name in (before.output[0], after.output[0]) if name in self._types]
        widest = "FLOAT" if onnx.TensorProto.FLOAT in kinds else _type_name(kinds[0]) if kinds else None
        spelt = before.op_type == after.op_type == "MatMul"
        widths = (self._last(before.input[0]), self._last(after.output[0])) if spelt else (None, None)
        leading = self._leading(before.output[0]) if spelt else None
        return AttentionSite(name, widest, widths, self._last(node.input[0]), leading)

    def weight_gemms(self) -> list[str]:
        """MatMul and Gemm nodes with one operand that is fixed."""
        return [node.name for node in self._weighted]

    def chosen(self) -> dict[str, str]:
        """What those of them are asked to compute in that have codes for operands, in a plan's words: `float8e4m3`, or
        `float16 x int4` where the weight alone is dequantised. Nothing of those with an operand of no known type."""
        found = {}
        for node in self._weighted:
            codes = [self._codes(name) for name in node.input[:2]]
            kinds = [kind or self.element(name) for kind, name in zip(codes, node.input[:2], strict=True)]
            told = [plan_type(kind) for kind in kinds if kind]
            if any(codes) and len(told) == len(kinds):
                found[node.name] = operand_types(told)
        return found

    def fp32_nodes(self) -> frozenset[str]:
        """What computes in FP32: all that make it but casts, movers, and GEMMs that were chosen to multiply codes.

        The product of a condition, which is ours, stays: its two rows of codes are joined in FP32.
        """
        products = (node for node in self._weighted if all(self._codes(name) for name in node.input[:2]))
        codes = frozenset(node.name for node in products if not is_made(node.name))
        nodes = (node for node in self.model.graph.node if node.op_type not in _TYPED | MOVERS)
        wide = (node for node in nodes if any(self._types.get(name) == onnx.TensorProto.FLOAT for name in node.output))
        return frozenset(node.name for node in wide) - codes

    @cached_property
    def _weighted(self) -> list[onnx.NodeProto]:
        products = (node for node in self.model.graph.node if node.op_type in ("MatMul", "Gemm"))
        return [node for node in products if sum(name in self.fixed for name in node.input[:2]) == 1]

    @cached_property
    def fixed(self) -> frozenset[str]:
        """Initializers, and what is made of them alone."""
        fixed = {tensor.name for tensor in self.model.graph.initializer}
        for node in self.model.graph.node:
            if all(name in fixed or not name for name in node.input):
                fixed.update(node.output)
        return frozenset(fixed)

    @cached_property
    def _makers(self) -> Mapping[str, onnx.NodeProto]:
        return {name: node for node in self.model.graph.node for name in node.output}

    @cached_property
    def _readers(self) -> Mapping[str, list[onnx.NodeProto]]:
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        return readers

    @cached_property
    def _types(self) -> Mapping[str, int]:
        return {name: value.elem_type for name, value in self._described.items()}

    @cached_property
    def _described(self) -> Mapping[str, onnx.TypeProto.Tensor]:
        graph = self.model.graph
        return {each.name: each.type.tensor_type for each in [*graph.value_info, *graph.output, *graph.input]}

    def _last(self, name: str) -> int | None:
        """The size of a tensor's last axis, where it is known."""
        dims = self._described[name].shape.dim if name in self._described else ()
        return dims[-1].dim_value or None if dims else None

    def _leading(self, name: str) -> tuple[int | None, ...] | None:
        """A tensor's sizes but for the last two, None for the batch; None of all where another is not known."""
        dims = list(self._described[name].shape.dim)[:-2] if name in self._described else []
        batches = {each.type.tensor_type.shape.dim[0].dim_param for each in self.model.graph.input if _axes(each)}
        known = [each.dim_value > 0 or each.dim_param in batches - {""} for each in dims]
        return tuple(each.dim_value or None for each in dims) if dims and all(known) else None

    def _product(self, softmax: onnx.NodeProto, *, forward: bool) -> onnx.NodeProto:
        return next(node for node in self._reached(softmax, forward=forward) if self._mixes(node))

    def _attends(self, softmax: onnx.NodeProto) -> bool:
        return all(any(map(self._mixes, self._reached(softmax, forward=each))) for each in (False, True))

    def _mixes(self, node: onnx.NodeProto) -> bool:
        return node.op_type in _PRODUCTS and sum(name not in self.fixed for name in node.input[:2]) == 2

    def _reached(self, start: onnx.NodeProto, *, forward: bool) -> Iterator[onnx.NodeProto]:
        """The first nodes on every path that are none of `_BETWEEN`."""
        pending, seen = [start], {start.name}
        while pending:
            for node in self._next(pending.pop(), forward=forward):
                if node.name in seen:
                    continue
                seen.add(node.name)
                if node.op_type in _BETWEEN:
                    pending.append(node)
                else:
                    yield node

    def _next(self, node: onnx.NodeProto, *, forward: bool) -> Iterable[onnx.NodeProto]:
        if forward:
            return [reader for name in node.output for reader in self._readers.get(name, [])]
        return [self._makers[name] for name in node.input if name in self._makers]

    def _codes(self, name: str) -> int | None:
        """The element type of the codes that a tensor is dequantised from; None where it is not."""
        maker = self._maker(name, MOVERS | {"Cast"})
        return self.element(maker.input[0]) if maker is not None and maker.op_type == "DequantizeLinear" else None

    def element(self, name: str) -> int | None:
        """The type of a tensor, or of what makes it; None where nothing tells."""
        if name in self._types or name in self._constants:
            return self._types.get(name) or self._constants[name]
        maker = self._makers.get(name)
        if maker is None:
            return None
        if maker.op_type == "QuantizeLinear":  # as its zero point, or as it says; UINT8 where it has neither
            zero = maker.input[2] if len(maker.input) > 2 else ""
            return self.element(zero) if zero else int_attribute(maker, "output_dtype") or onnx.TensorProto.UINT8
        if maker.op_type == "Cast":
            return int_attribute(maker, "to")
        like = maker.input[maker.op_type == "DequantizeLinear"]
        return self.element(like) if maker.op_type in MOVERS | {"DequantizeLinear"} else None

    @cached_property
    def _constants(self) -> Mapping[str, int]:
        """The types of constants, which are no part of what is described."""
        nodes = (node for node in self.model.graph.node if node.op_type == "Constant")
        made = {node.output[0]: each.t.data_type for node in nodes for each in node.attribute if each.name == "value"}
        return made | {tensor.name: tensor.data_type for tensor in self.model.graph.initializer}

    def _maker(self, name: str, through: Collection[str]) -> onnx.NodeProto | None:
        """The node that makes a tensor, and none of `through`."""
        maker = self._makers.get(name)
        while maker is not None and maker.op_type in through:
            maker = self._makers.get(maker.input[0])
        return maker


def int_attribute(node: onnx.NodeProto, name: str) -> int | None:
    """None where the node does not have it."""
    return next((each.i for each in node.attribute if each.name == name), None)


def _type_name(kind: int) -> str:
    return str(onnx.TensorProto.DataType.Name(kind))


def _axes(value: onnx.ValueInfoProto) -> int:
    return len(value.type.tensor_type.shape.dim)
