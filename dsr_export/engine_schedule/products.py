"""What the kernels that multiply matrices compute in, and how much: from the sizes of their operands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from dsr_export.engine_schedule.operand_types import CODES, operand_types
from dsr_export.engine_schedule.plan_text import Program, UnreadableSchedule
from dsr_export.engine_schedule.record import CONVOLUTION, GEMM
from dsr_export.engine_schedule.statements import Statement, statement
from dsr_export.engine_schedule.tensors import BITS, Tensor

LIBRARY = {"fully_connected": GEMM, "corrltn": CONVOLUTION, "deconvolution": CONVOLUTION}
"""The plan's words for kernels of a library that is chosen from on the device."""
BACKBONES = {"gemm": GEMM, "conv": CONVOLUTION}
"""Its words for what lies inside a fused kernel."""

_DECIDING = frozenset({"bool", "int32", "int64"})
"""Types of masks and counts."""
_MOST_OPERANDS = 16  # of an attention, which has up to six; each three of them are tried


@dataclass(frozen=True)
class Product:
    """`computes`: the type of both operands, or `float16 x int8`, also where it reads codes and multiplies floats.
    `operations`: multiplications and additions. Raises UnreadableSchedule for types that nothing multiplies."""

    computes: str
    operations: int

    def __post_init__(self) -> None:
        strange = [each for each in self.computes.split(" x ") if each not in BITS or each in _DECIDING]
        if strange:
            raise UnreadableSchedule(f"a product of {strange[0]!r:.40}")


@dataclass(frozen=True)
class Fallback:
    """The program of one fused kernel, step by step, and its tensors."""

    program: Program
    tensors: Mapping[str, Tensor]


def library_product(call: Statement, known: Mapping[str, Tensor]) -> Product:
    """Of a GEMM [..., M, K] x [..., K, N] or a convolution. Raises UnreadableSchedule for operands that do not fit."""
    inputs, outputs = call.names("input"), call.names("output")
    if len(inputs) < 2 or len(outputs) != 1:
        raise UnreadableSchedule(f"a product of {len(inputs)} tensors into {len(outputs)}")
    a, b, result = (known_tensor(known, name) for name in (*inputs[:2], *outputs))
    if LIBRARY[call.kind] == GEMM:
        return Product(operand_types([a.type, b.type]), _gemm_operations(call, a, b, result))
    spread = a if call.kind == "deconvolution" else result  # each of its values meets a filter's
    return Product(operand_types([a.type, b.type]), 2 * spread.count * math.prod(b.dims[1:]))


def fused_product(fallback: Fallback, nodes: Sequence[str], writes: Sequence[Tensor]) -> Product:
    """Of the kernel that has these nodes and results, by its fallback program, in which the product stands alone."""
    program, known = fallback.program, fallback.tensors
    calls = [statement(line) for line in program.lines("main") if line.startswith("  ")]
    cores = [call for call in calls if call.kind in LIBRARY]
    results = [known_tensor(known, name) for name in program.header_names("outputs")]
    same = sorted(each.bytes for each in results) == sorted(each.bytes for each in writes)
    if len(cores) != 1 or not set(cores[0].nodes) <= set(nodes) or not same:
        raise UnreadableSchedule(f"the fused kernel of {', '.join(nodes) or 'no node'} has another one's fallback")
    product = library_product(cores[0], known)
    return (
        product if (computes := _dequantising(cores[0], calls, known)) is None else replace(product, computes=computes)
    )


def attention_product(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Product:
    """Of softmax(q k^T) v: q [..., M, D], v [..., N, E], result [..., M, E]. Where masks stand among them differs."""
    values = [each for each in inputs if each.type not in _DECIDING and len(each.dims) > 1]
    triples = combinations(values if len(values) <= _MOST_OPERANDS else (), 3)
    found = [made for q, k, v in triples for made in _attention(q, k, v, outputs[0])]
    if not found or len(set(found)) > 1:
        told = ", ".join(str(list(each.dims)) for each in values[:_MOST_OPERANDS])
        raise UnreadableSchedule(f"an attention makes {list(outputs[0].dims)} of {told}")
    return found[0]


def _attention(q: Tensor, k: Tensor, v: Tensor, result: Tensor) -> list[Product]:
    """One product, or none where the sizes do not fit."""
    heads, shared = math.prod(result.dims[:-2]), math.prod(v.dims[:-2])
    keys = v.dims[-2]  # of heads that may each serve several of the queries
    fits = q.dims[:-1] == result.dims[:-1] and v.dims[-1] == result.dims[-1] and shared > 0 and heads % shared == 0
    if not fits or k.count != shared * keys * q.dims[-1]:
        return []
    return [Product(operand_types([q.type, k.type]), 2 * (q.count + result.count) * keys)]


def known_tensor(known: Mapping[str, Tensor], name: str) -> Tensor:
    """Raises UnreadableSchedule for one that is not described."""
    if name not in known:
        raise UnreadableSchedule(f"the tensor {name!r} is not described")
    return known[name]


def _dequantising(core: Statement, calls: Sequence[Statement], known: Mapping[str, Tensor]) -> str | None:
    """`float16 x int4` where one operand is read as codes, and becomes floats on its way into the product.

    Where both do, it is one of floats, whatever is read.
    """
    makers = {name: call for call in calls for name in call.names("output")}
    operands = [known_tensor(known, name) for name in core.names("input")[:2]]
    codes = [_codes(each, makers, known) for each in operands]
    if sum(each is not None for each in codes) != 1:
        return None
    return operand_types(code or each.type for code, each in zip(codes, operands, strict=True))


def _codes(operand: Tensor, makers: Mapping[str, Statement], known: Mapping[str, Tensor]) -> str | None:
    """The type of the codes that a tensor of floats is a cast and a scale of."""
    if operand.type in CODES:
        return None
    now, maker = operand, makers.get(operand.name)
    while maker is not None and maker.kind in ("cast", "mul"):
        alike = [each for name in maker.names("input") if (each := known_tensor(known, name)).count == operand.count]
        if len(alike) != 1:  # of two factors as large as the product, neither is a scale
            return None
        now, maker = alike[0], makers.get(alike[0].name)
    return now.type if now.type in CODES else None


def _gemm_operations(call: Statement, a: Tensor, b: Tensor, result: Tensor) -> int:
    """Two for each product that is summed up."""
    left, right = (_matrix(each, call.word(key) == "true") for each, key in ((a, "trA"), (b, "trB")))
    if left[1] != right[0] or (left[0], right[1]) != _matrix(result, transposed=False):
        told = " x ".join(str(list(each.dims)) for each in (a, b))
        raise UnreadableSchedule(f"the GEMM {call.word('name')!r} makes {list(result.dims)} of {told}")
    return 2 * result.count * left[1]


def _matrix(tensor: Tensor, transposed: bool) -> tuple[int, int]:
    if len(tensor.dims) < 2:
        raise UnreadableSchedule(f"the operand {tensor.name!r} of a GEMM is no matrix")
    rows, columns = tensor.dims[-2:]
    return (columns, rows) if transposed else (rows, columns)
