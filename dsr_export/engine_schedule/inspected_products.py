"""What the products of an engine compute in, and how much, by what TensorRT's inspector tells of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from dsr_export.engine_schedule.graph_weights import Weight
from dsr_export.engine_schedule.inspected_layers import Layer
from dsr_export.engine_schedule.operand_types import CODES, operand_types
from dsr_export.engine_schedule.plan_text import UnreadableSchedule
from dsr_export.engine_schedule.products import Product
from dsr_export.engine_schedule.tensors import Tensor

_MULTIPLIES = re.compile(r"sm\d+_xmma_gemm_[a-z0-9]+_(i8|e4m3|bf16|f16|tf32|f32)(?:i32|f32|f16)_.*")
"""A library's kernel is named by what comes in and out, by what is multiplied and summed up in, and more."""
_NAMED = {"i8": "int8", "e4m3": "float8e4m3", "bf16": "bfloat16", "f16": "float16", "tf32": "float32", "f32": "float32"}
_COUNTS = frozenset({"bool", "int32", "int64"})


def multiplied_in(layer: Layer) -> str | None:
    """By the name of its kernel; None where that does not tell."""
    found = _MULTIPLIES.fullmatch(layer.tactic)
    return None if found is None else _NAMED[found[1]]


def gemm_product(
    layer: Layer, reads: Sequence[Tensor], constants: Sequence[Tensor], writes: Sequence[Tensor], of: Sequence[Weight]
) -> Product:
    """Of a GEMM with the weights `of` the graph, which must be among `constants`; of two activations where it has none.

    Raises:
        UnreadableSchedule: operands that do not fit together, or that its kernel's name contradicts.
    """
    if not of:
        a, b = _two(layer, [*reads, *constants])
        return Product(_computes(layer, a.type, b.type), 2 * writes[0].count * _summed(layer, a, b, writes[0]))
    stored = _weight_type(layer, constants, of)
    rows, columns = of[0].rows, sum(each.columns for each in of)
    makes, left = writes[0].count, [each for each in reads if each.type not in _COUNTS]
    fits = [each for each in left if each.count * columns == makes * rows]
    if not fits or makes % columns or any(each.rows != rows for each in of):
        told = ", ".join(str(list(each.dims)) for each in left)
        raise UnreadableSchedule(
            f"the GEMM {layer.name[:60]!r} makes {list(writes[0].dims)} of {told} and a weight of {rows} x {columns}"
        )
    return Product(_computes(layer, fits[0].type, stored), 2 * makes * rows)


def convolution_product(layer: Layer, reads: Sequence[Tensor], writes: Sequence[Tensor]) -> Product:
    """Of one outside of Myelin, which tells its weights by type and number."""
    maps, dynamic = (
        layer.number("OutMaps"),
        layer.number("HasDynamicFilter") if "HasDynamicFilter" in layer.fields else 0,
    )
    if not layer.weights or not reads or dynamic or not maps or layer.weights[0][1] % maps:
        raise UnreadableSchedule(f"the convolution {layer.name[:60]!r} does not tell its weights")
    if len(writes) != 1 or len(writes[0].dims) < 3 or writes[0].dims[1] != maps:
        raise UnreadableSchedule(f"the convolution {layer.name[:60]!r} makes no {maps} maps")
    kind, count = layer.weights[0]
    return Product(operand_types([reads[0].type, kind]), 2 * writes[0].count * (count // maps))


def _weight_type(layer: Layer, constants: Sequence[Tensor], of: Sequence[Weight]) -> str:
    """The type of the one constant that is as large as the weights; of several parts of it where they are alike."""
    whole, parts = sum(each.count for each in of), {each.count for each in of}
    found = [each for each in constants if each.count == whole] or [each for each in constants if each.count in parts]
    kinds = {each.type for each in found}
    if sum(each.count for each in found) != whole or len(kinds) != 1:
        told = ", ".join(str(list(each.dims)) for each in constants) or "none"
        raise UnreadableSchedule(f"the GEMM of {of[0].node!r} has {whole} weights, and its constants are {told}")
    return kinds.pop()


def _two(layer: Layer, operands: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    found = [each for each in operands if len(each.dims) > 1 and each.type not in _COUNTS]
    if len(found) < 2:
        raise UnreadableSchedule(f"the product {layer.name[:60]!r} has {len(found)} operands")
    return found[0], found[1]


def _summed(layer: Layer, a: Tensor, b: Tensor, made: Tensor) -> int:
    """The axis that both operands have and the result has not; raises where sizes leave it open."""
    left, right = a.dims[-2:], b.dims[-2:]
    found = {
        left[1 - i]
        for i in (0, 1)
        for j in (0, 1)
        if left[1 - i] == right[j] and sorted((left[i], right[1 - j])) == sorted(made.dims[-2:])
    }
    heads = math.prod(made.dims[:-2])
    if len(found) != 1 or heads not in (math.prod(a.dims[:-2]), math.prod(b.dims[:-2])):
        told = " x ".join(str(list(each.dims)) for each in (a, b))
        raise UnreadableSchedule(f"the product {layer.name[:60]!r} makes {list(made.dims)} of {told}")
    return found.pop()


def _computes(layer: Layer, activation: str, weight: str) -> str:
    """As its operands are written, unless its kernel's name says that both become something else first."""
    named, both = multiplied_in(layer), (activation, weight)
    if named is None or both == (named, named):
        return operand_types(both)
    if all(each in CODES for each in both) and named not in CODES:
        return named
    if named in both and any(each in CODES for each in both):
        return operand_types(both)
    raise UnreadableSchedule(f"the kernel {layer.tactic[:60]!r} multiplies {named}, and reads {operand_types(both)}")
