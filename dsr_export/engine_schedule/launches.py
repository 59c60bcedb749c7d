"""The launches of a program, in order: what each is, reads, writes and computes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsr_export.engine_schedule.plan_text import Program, UnreadableSchedule
from dsr_export.engine_schedule.products import (
    BACKBONES,
    LIBRARY,
    Fallback,
    Product,
    attention_product,
    fused_product,
    known_tensor,
    library_product,
)
from dsr_export.engine_schedule.record import ATTENTION, COPY, GEMM, POINTWISE, REDUCTION, TOPK, Launch
from dsr_export.engine_schedule.statements import Statement, statement
from dsr_export.engine_schedule.tensors import Tensor, tensors

_MOVES = frozenset({"Cast", "Conc", "Gath", "Move", "Repl", "Resh", "Scat", "Slic", "Tran"})
"""The plan's words in a kernel's name for what moves or converts values and computes nothing."""
_SORTS = ("Topk", "Bott")
_NO_LAUNCH = frozenset({"shape_call", "signal", "wait"})
"""Its words for arithmetic on sizes, on the host, and for what keeps two streams in step."""
_POOLS = frozenset({"avgpool", "maxpool"})
_GENERATED = frozenset({"function", "runtime_function"})
"""Its words for kernels that it generated; some are made again on the device, and have a fallback until then."""
_POINTWISE = "__myl_"
"""How its names of fused pointwise kernels begin: a word for each op follows."""
_WITH_FALLBACK = {"runtime_fusion": "binary", "runtime_function": "runtime_binary"}
"""Kind -> the key of the number that its fallback program has."""

_ARGUMENTS = (("input_args", "input"), ("output_args", "output"))
"""What a launch reads and writes: of generated kernels, and of a library's."""


@dataclass(frozen=True)
class Call:
    """A launch, whose block is yet to be found, with the tensors on the device that it reads and writes, each once."""

    launch: Launch
    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]


def calls(program: Program, fallbacks: Sequence[Program], sizes: Mapping[str, int]) -> list[Call]:
    """Every launch of `program`; `fallbacks` are the programs of its fused kernels, in the order of their numbers.

    Raises:
        UnreadableSchedule: a line, tensor or kind of launch that is not known.
    """
    known = tensors(program, sizes)
    made, used = [], set()
    for line in _straight(program):
        told = statement(line)
        if told.kind in _NO_LAUNCH:
            continue
        fallback = None
        if told.kind in _WITH_FALLBACK:
            number = told.number(_WITH_FALLBACK[told.kind])
            if number in used or not 0 <= number < len(fallbacks):
                raise UnreadableSchedule(f"there is no program for the fused kernel {number}")
            used.add(number)
            fallback = Fallback(fallbacks[number], tensors(fallbacks[number], sizes))
        call = _call(told, known, fallback)
        if call is not None:
            made.append(call)
    if len(used) != len(fallbacks):
        raise UnreadableSchedule(f"{len(fallbacks)} programs of fused kernels, and {len(used)} fused kernels")
    return made


def _straight(program: Program) -> list[str]:
    """The statements of `main`, which must be one straight list."""
    label, *lines = program.lines("main") or ("",)
    if re.fullmatch(r" label \w+: ?", label) is None or any(not line.startswith("  ") for line in lines):
        raise UnreadableSchedule("the launches are no straight list")
    return lines


def _call(told: Statement, known: Mapping[str, Tensor], fallback: Fallback | None) -> Call | None:
    """None for what stays on the host: sizes are reshaped there as well."""
    reads, writes = (_on_device(told.names(*keys), known) for keys in _ARGUMENTS)
    if not (reads or writes or told.kind in _GENERATED) and all(told.names(*keys) for keys in _ARGUMENTS):
        return None
    if not writes:
        raise UnreadableSchedule(f"{told.kind} {told.word('name')!r} writes nothing")
    kind, product = _product(told, known, fallback, reads, writes)
    launch = Launch(
        kind=kind,
        kernel=told.word("name") if told.kind in _GENERATED else told.kind,
        nodes=told.nodes,
        read=_bytes(reads),
        written=_bytes(writes),
        computes=None if product is None else product.computes,
        operations=None if product is None else product.operations,
    )
    return Call(launch, reads, writes)


def _on_device(names: Sequence[str], known: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor for name in dict.fromkeys(names) if not (tensor := known_tensor(known, name)).on_host)


def _product(
    told: Statement,
    known: Mapping[str, Tensor],
    fallback: Fallback | None,
    reads: Sequence[Tensor],
    writes: Sequence[Tensor],
) -> tuple[str, Product | None]:
    """The kind of a launch, and what it multiplies."""
    if told.kind in LIBRARY:
        return LIBRARY[told.kind], library_product(told, known)
    if told.kind in _POOLS:
        return REDUCTION, None
    if told.kind == "runtime_fusion" and fallback is not None and (kind := BACKBONES.get(told.word("backbone"))):
        return kind, fused_product(fallback, told.nodes, writes)
    if told.kind not in _GENERATED:
        raise UnreadableSchedule(f"a launch of the unknown kind {told.kind!r}")
    name = _name(told)
    if "mha" in name:
        inputs = [known_tensor(known, each) for each in told.names("input_args")]  # keys may be the values, once more
        return ATTENTION, attention_product([each for each in inputs if not each.on_host], writes)
    return _plain_kind(name, told.number("reduction_algo_kind")), None


def _name(told: Statement) -> str:
    """Of a generated kernel, which must be that of its full name: there a digest of its code follows."""
    name, full = told.word("name"), told.word("fqn")
    if not (full.startswith(f"{name}_") or _shared(name, full)):
        raise UnreadableSchedule(f"the kernel {name!r} has the full name {full!r}")
    return name


def _shared(name: str, full: str) -> bool:
    """Whether two fusions share a kernel: each is named in its own order, and what is too long ends in `Etc`."""
    found = re.fullmatch(rf"{_POINTWISE}(\w+)_\w+", full)
    if found is None or not name.startswith(_POINTWISE):
        return False
    words, others = (re.findall("[A-Z][a-z0-9]*", each) for each in (name, found[1]))
    return sorted(words) == sorted(others) or words[-1:] == others[-1:] == ["Etc"]


def _plain_kind(name: str, reduces: int) -> str:
    """Of a kernel that was generated: its name lists what is fused in it."""
    if name.startswith("_gemm"):
        return GEMM
    if any(word in name for word in _SORTS):
        return TOPK
    words = re.findall(r"[A-Z][a-z0-9]*", name)
    if words and _MOVES.issuperset(words):
        return COPY
    return REDUCTION if reduces else POINTWISE


def _bytes(found: Sequence[Tensor]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for each in found:
        sums[each.type] += each.bytes
    return dict(sorted(sums.items()))
