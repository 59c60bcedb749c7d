"""What the GEMMs of a quantised build move, and how long they would take: in the formats that the budget chose, and all
of them in FP16 beside that.

Those that engines have in floats all the same (see `graphs.quantize.attention_outputs`) count as FP16. A GEMM is the
launches that TensorRT-RTX 1.7.1 makes of it, as its plans tell:

    fp16, int8, fp8   one product; the codes of its input are written by what makes the input (not so row factors behind
                      attention, which take a kernel that is not counted); it may hand on codes, too
    int4              one product in FP16, which reads the codes of its weight
    nvfp4-weights     a kernel that makes FP16 of the weight, and a product in FP16
    nvfp4             the codes of the input, a copy of their scales, the product, and the two of a branch
    a condition       one product for all GEMMs that read it, in codes of two rows and out in FP32

Biases are left out: they are the same in every format. How an estimate is made says `engine_schedule.roofline`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dsr_export.engine_schedule.operand_types import operand_types, plan_type
from dsr_export.engine_schedule.record import COPY, GEMM, Launch
from dsr_export.engine_schedule.roofline import estimates, not_estimated
from graphs.precisions import FLOAT, FLOAT16
from graphs.quantize.schemes import SCHEMES, GemmFormat
from graphs.weights.packed import packed_size

FP16 = "fp16"
Sizes = Mapping[int, int]
"""Element type -> values."""
_FORMATS = {form.name: form for each in SCHEMES.values() for form in (*each.tokens, each.condition)}
_BY_BITS = sorted(_FORMATS.values(), key=lambda form: (packed_size(2, form.weights.type), not form.weights.is_float))
"""Of as many bits floats first: the order of every ladder."""
_FLOATS = {"precision": FP16, "rank": 0, "coded_product": False}
_CODES_OF_A_CONDITION = 2  # rows for each one: see `graphs.quantize.conditions`


@dataclass(frozen=True, kw_only=True)
class Product:
    """`[batch * tokens, inputs] x [inputs, outputs]` in a `format`, with a branch of `rank`: of one GEMM, or of several
    that became one. `tokens` is 1 for a condition; with `coded_product` the GEMM hands on codes, not FP16."""

    format: str
    tokens: int
    inputs: int
    outputs: int
    rank: int = 0
    coded_product: bool = False
    gemms: int = 1

    @property
    def weight(self) -> Sizes:
        """What is stored of it: codes, their steps and the branch."""
        count, form = self.inputs * self.outputs, _FORMATS.get(self.format)
        if form is None:
            return {FLOAT16: count}
        steps = self.outputs if form.block is None else count // form.block
        kind = FLOAT16 if form.scales is None else form.scales.type
        branch = self.rank * (self.inputs + self.outputs)
        kept = Counter({form.weights.type: count, FLOAT16: branch})
        return kept + Counter({FLOAT if self.tokens == 1 else kind: steps})


@dataclass(frozen=True, kw_only=True)
class _Kernel:
    """One launch: values that it reads of weights, that it makes of them, and activations that it reads and writes."""

    weight: Sizes = field(default_factory=dict)
    made: Sizes = field(default_factory=dict)
    read: Sizes = field(default_factory=dict)
    written: Sizes = field(default_factory=dict)
    computes: tuple[int, ...] = ()
    operations: int | None = None

    @property
    def launch(self) -> Launch:
        return Launch(
            kind=GEMM if self.computes else COPY,
            kernel="",
            nodes=(),
            read=_bytes(Counter(self.weight) + Counter(self.read)),
            written=_bytes(Counter(self.made) + Counter(self.written)),
            computes=operand_types(map(plan_type, self.computes)) if self.computes else None,
            operations=self.operations,
        )


def stored_bytes(form: str, tokens: int, inputs: int, outputs: int, rank: int = 0) -> int:
    """Of a GEMM's weight in that format."""
    return _total(Product(format=form, tokens=tokens, inputs=inputs, outputs=outputs, rank=rank).weight)


def gemm_costs(gemms: Sequence[Mapping[str, Any]], batch: int) -> dict[str, Any]:
    """The report's `cost`, of what it says of each of its `gemms`, at a batch of so many."""
    chosen = _products([{**each, **(_FLOATS if each["engine_floats"] else {})} for each in gemms])
    by_format = {
        name: [each for each in chosen if each.format == name] for name in (*(form.name for form in _BY_BITS), FP16)
    }
    return {
        "batch": batch,
        "formats": [{"format": name, **_cost(own, batch)} for name, own in by_format.items() if own],
        "chosen": _cost(chosen, batch),
        "all_fp16": _cost(_products([{**each, **_FLOATS} for each in gemms]), batch),
    }


def _products(gemms: Sequence[Mapping[str, Any]]) -> list[Product]:
    """That of each GEMM; those of one condition and format are joined."""
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for each in gemms:
        key = (each["reads"], each["precision"]) if each["tokens"] == 1 else (each["name"],)
        found.setdefault(key, []).append(each)
    return [_joined(group) for group in found.values()]


def _joined(gemms: Sequence[Mapping[str, Any]]) -> Product:
    first, outputs = gemms[0], sum(each["outputs"] for each in gemms)
    shape = {key: first[key] for key in ("tokens", "inputs", "rank", "coded_product")}
    return Product(format=first["precision"], outputs=outputs, gemms=len(gemms), **shape)


def _cost(products: Sequence[Product], batch: int) -> dict[str, Any]:
    kernels = [kernel for each in products for kernel in _kernels(each, batch)]
    launches = [each.launch for each in kernels]
    return {
        "gemms": sum(each.gemms for each in products),
        "launches": len(launches),
        "weight_bytes": sum(_total(each.weight) for each in products),
        "activation_bytes": sum(_total(each.read) + _total(each.written) for each in kernels),
        "estimates": estimates(launches),
        "not_estimated": not_estimated(launches),
    }


def _kernels(product: Product, batch: int) -> Iterator[_Kernel]:
    """What is launched for it."""
    rows, form = batch * product.tokens, _FORMATS.get(product.format)
    operations = 2 * rows * product.inputs * product.outputs
    x, y = {FLOAT16: rows * product.inputs}, {FLOAT16: rows * product.outputs}
    if form is None:
        yield _Kernel(weight=product.weight, read=x, written=y, computes=(FLOAT16,), operations=operations)
    elif product.tokens == 1:
        codes = {form.activations.type: _CODES_OF_A_CONDITION * rows * product.inputs}
        y = {FLOAT: _CODES_OF_A_CONDITION * rows * product.outputs}
        operations *= _CODES_OF_A_CONDITION
        kind = (form.weights.type,)
        yield _Kernel(weight=product.weight, read=codes, written=y, computes=kind, operations=operations)
    elif form.activations.is_code:
        yield from _of_codes(product, form, rows)
    elif form.weights.is_float:
        whole = {FLOAT16: product.inputs * product.outputs}
        yield _Kernel(weight=product.weight, made=whole)
        yield _Kernel(weight=whole, read=x, written=y, computes=(FLOAT16,), operations=operations)
    else:
        kinds = (FLOAT16, form.weights.type)
        yield _Kernel(weight=product.weight, read=x, written=y, computes=kinds, operations=operations)


def _of_codes(product: Product, form: GemmFormat, rows: int) -> Iterator[_Kernel]:
    """Of codes on both sides; in blocks their scales are taken from the data, which is work of its own."""
    inputs, outputs, rank = product.inputs, product.outputs, product.rank
    codes: Sizes = {form.activations.type: rows * inputs}
    x, y = {FLOAT16: rows * inputs}, {form.activations.type if product.coded_product else FLOAT16: rows * outputs}
    if form.block is not None and form.scales is not None:
        scales = {form.scales.type: rows * inputs // form.block}
        codes = {**codes, **scales}
        yield _Kernel(read=x, written=codes)
        yield _Kernel(read=scales, written=scales)
    weight = Counter(product.weight) - Counter({FLOAT16: rank * (inputs + outputs)})
    operations = 2 * rows * inputs * outputs
    yield _Kernel(weight=weight, read=codes, written=y, computes=(form.weights.type,), operations=operations)
    if rank:
        down, up, narrow = {FLOAT16: inputs * rank}, {FLOAT16: rank * outputs}, {FLOAT16: rows * rank}
        floats, both = (FLOAT16,), Counter(narrow) + Counter(y)  # the product of codes is added to that of the branch
        yield _Kernel(weight=down, read=x, written=narrow, computes=floats, operations=2 * rows * inputs * rank)
        yield _Kernel(weight=up, read=both, written=y, computes=floats, operations=2 * rows * rank * outputs)


def _bytes(sizes: Sizes) -> dict[str, int]:
    return {plan_type(kind): packed_size(count, kind) for kind, count in sizes.items()}


def _total(sizes: Sizes) -> int:
    return sum(_bytes(sizes).values())
