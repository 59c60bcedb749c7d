"""Which differences make B worse than A. Everything else is a difference and no more."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dsr_export.bundle.manifest import Manifest
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.reports.figures import is_known, number
from graphs.artifacts import TensorSpec
from graphs.precisions import PRECISIONS, Precision

MARGIN_DB = 3.0
"""A drop of the SNR that is no noise: half of the signal's accuracy, in power."""
ORDER_DB = TOLERANCES["fp32"].snr_db
"""Above this an error is one of summation order, and how large it is says nothing: FP32 kernels differ by 40 dB."""
DEPTH_DB = 10.0
"""By so much the roundings of a model lie above one of its type: those of PyTorch's half run of rae-dit-s at 56 dB."""


def regressions(a: Manifest, b: Manifest, facts: Mapping[str, Any], margin_db: float) -> list[str]:
    """In words: other inputs or outputs, checks that passed and now fail, and an SNR that dropped by more than
    `margin_db` to below what rounding explains."""
    found = [*_interface(a, b)]
    floor = floor_db(a, b)
    for row in facts["parity"]:
        name = f"{row['check']} {row['output']} ({_ran(row)})"
        if row["a"] is not None and row["b"] is not None:  # a runtime that one side never had proves nothing
            found += _worse(name, row["a"], row["b"], margin_db, floor)
    for check in facts["checks"]:
        if check["a"] and check["b"] and check["a"]["passed"] and not check["b"]["passed"]:
            found.append(f"{_check(check)} passed in A, and in B it is {number(check['b']['value'], '.3f')} and fails")
    for row in facts["outputs"]:
        name = f"golden batch {row['batch']} {row['output']}, run here"
        found += _worse(name, row["a"], row["b"], margin_db, floor)
    return found


def floor_db(a: Manifest, b: Manifest) -> float:
    """Above this SNR, errors are those of rounding, in the types of both graphs."""
    return max(_rounding_db(each.precision) for each in (a, b))


def _ran(row: Mapping[str, Any]) -> str:
    """The runtime, and which engine or graph where the row names one."""
    return str(row["runtime"]) if row["target"] is None else f"{row['runtime']}, {row['target']}"


def _check(check: Mapping[str, Any]) -> str:
    return str(check["name"]) if check["target"] is None else f"{check['name']} of {check['target']}"


def _rounding_db(precision: Precision) -> float:
    return min(ORDER_DB, round(-20 * math.log10(PRECISIONS[precision].held.exact) - DEPTH_DB, 1))


def _worse(name: str, a: Mapping[str, Any], b: Mapping[str, Any], margin_db: float, floor: float) -> Iterator[str]:
    if b["problem"] is not None and a["problem"] is None:
        yield f"{name}: {b['problem']}"
    elif a["passed"] and not b["passed"]:
        yield f"{name} passed in A and fails in B: SNR {_db(a)} -> {_db(b)}"
    elif is_known(a["snr_db"]) and is_known(b["snr_db"]):
        dropped = a["snr_db"] - b["snr_db"]
        if dropped > margin_db and b["snr_db"] < floor:
            yield f"{name}: SNR {_db(a)} -> {_db(b)}, a drop of more than {margin_db:g} dB to below {floor:.0f} dB"


def _interface(a: Manifest, b: Manifest) -> Iterator[str]:
    """What a program written for A would trip over."""
    for kind, left, right in (("inputs", a.inputs, b.inputs), ("outputs", a.outputs, b.outputs)):
        if _forms(left) != _forms(right):
            yield f"{kind} differ: {_shown(left)} -> {_shown(right)}"
    if b.batch.min > a.batch.min or b.batch.max < a.batch.max:
        yield f"B takes batches {b.batch.min} to {b.batch.max}, and A took {a.batch.min} to {a.batch.max}"
    for role in a.components:
        if role not in b.components:
            yield f"B has no component '{role}'"


def _forms(specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """By name; what a dynamic axis is called does not matter."""
    return {s.name: (s.dtype, [None if isinstance(dim, str) else dim for dim in s.shape]) for s in specs}


def _shown(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in specs)


def _db(side: Mapping[str, Any]) -> str:
    return f"{side['snr_db']:.1f} dB" if is_known(side["snr_db"]) else "none"
