"""The tensors of a program: their types, their sizes at one batch, and where they lie."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsr_export.engine_schedule.plan_text import Program, UnreadableSchedule
from dsr_export.engine_schedule.statements import Statement, statement

TYPES = {
    "half": "float16",
    "float": "float32",
    "bf16": "bfloat16",
    "fp8_e4m3": "float8e4m3",
    "fp4_e2m1": "float4e2m1",
}
"""The plan's names of element types, where they are not ours."""
BITS = {
    "float4e2m1": 4,
    "int4": 4,
    "bool": 8,
    "int8": 8,
    "uint8": 8,
    "float8e4m3": 8,
    "float16": 16,
    "bfloat16": 16,
    "float32": 32,
    "int32": 32,
    "int64": 64,
}
MOST_AXES, MOST_ELEMENTS = 64, 1 << 62
_REGION = re.compile(r"  region = \{ name=(\S+) .*\bplace=(\w+)\b.*\}\s*")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """`root` is the tensor that it is a view of, or itself. What lies on the host is a size or a factor of a kernel."""

    name: str
    root: str
    dims: tuple[int, ...]
    type: str
    constant: bool
    on_host: bool

    @property
    def count(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Of the whole tensor, or of the view."""
        return -(-self.count * BITS[self.type] // 8)


def tensors(program: Program, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Name -> tensor, of every tensor that the program describes. `sizes` are the run-time ones.

    Raises:
        UnreadableSchedule: an unknown type, a size that is not known, or a description that contradicts itself.
    """
    regions = filter(None, map(_REGION.fullmatch, program.lines("header")))
    places = {"": "accelerator"} | {found[1]: found[2] for found in regions}  # inputs and outputs lie in none
    found: dict[str, Tensor] = {}
    for line in program.lines("descriptors"):
        made = _tensor(statement(line), sizes, places, found)
        if made.name in found:
            raise UnreadableSchedule(f"the tensor {made.name!r} is described twice")
        found[made.name] = made
    return found


def _tensor(
    told: Statement, sizes: Mapping[str, int], places: Mapping[str, str], earlier: Mapping[str, Tensor]
) -> Tensor:
    name, view = told.word("name"), told.kind == "sub_tensor"
    if told.kind not in ("tensor", "sub_tensor"):
        raise UnreadableSchedule(f"{told.kind!r} among the tensors")
    kind = TYPES.get(told.word("type"), told.word("type"))
    if kind not in BITS:
        raise UnreadableSchedule(f"the tensor {name!r} is of the unknown type {kind!r}")
    base = earlier.get(told.word("base")) if view else None
    if view and base is None:
        raise UnreadableSchedule(f"the tensor {name!r} is a view of one that is not described")
    region = "" if view else told.word("region")
    if places.get(region) not in ("host", "accelerator"):
        raise UnreadableSchedule(f"the tensor {name!r} lies in the unknown region {region!r}")
    dims = tuple(_size(size, sizes, name) for size in told.sizes("dims"))
    if len(dims) > MOST_AXES or math.prod(dims) > MOST_ELEMENTS:
        raise UnreadableSchedule(f"the tensor {name!r} has more axes or elements than any has")
    made = Tensor(
        name=name,
        root=base.root if base else name,
        dims=dims,
        type=kind,
        constant=base.constant if base else told.optional("const_payload_size") is not None,
        on_host=base.on_host if base else places[region] == "host",
    )
    _check(made, told, sizes, base)
    return made


def _size(size: str, sizes: Mapping[str, int], name: str) -> int:
    value = _run_time(size, sizes) if size.startswith('"') else int(size)
    if value < (1 if size.startswith('"') else 0):
        raise UnreadableSchedule(f"the size {size} of the tensor {name!r} is not known")
    return value


def _check(made: Tensor, told: Statement, sizes: Mapping[str, int], base: Tensor | None) -> None:
    """Sizes stand in a plan several times over: those of a constant's bytes, of its strides, of what a view is of.

    What a fused kernel is given lies in no region of its own, and may be a slice of something outside.
    """
    if base is not None and made.bytes > base.bytes:
        raise UnreadableSchedule(f"the tensor {made.name!r} is larger than what it is a view of")
    if base is None and made.constant and told.number("const_payload_size") != made.bytes:
        raise UnreadableSchedule(f"the constant {made.name!r} has {made.bytes} bytes, and others are told")
    strides = [_run_time(stride, sizes) for stride in told.sizes("strides")]
    dense = base is None and bool(told.word("region"))
    if len(strides) != len(made.dims) or not (0 in strides or _fit(strides, made.dims, dense=dense)):
        raise UnreadableSchedule(f"the sizes and strides of the tensor {made.name!r} do not fit together")


def _fit(strides: Sequence[int], dims: Sequence[int], *, dense: bool) -> bool:
    """Whether every axis steps over what lies inside it; in a dense tensor, over nothing else."""
    inside = 1
    for step, size in sorted((step, size) for step, size in zip(strides, dims, strict=True) if size > 1):
        if step < inside or (dense and step != inside):
            return False
        inside = step * size
    return True


def _run_time(size: str, sizes: Mapping[str, int]) -> int:
    """0 for one that is not known."""
    return sizes.get(size.strip('"'), 0) if size.startswith('"') else int(size)
