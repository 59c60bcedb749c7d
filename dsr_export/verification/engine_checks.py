"""The table of checks of what an engine launches: advice, that `build --strict` holds the bundle to.

A new one is an entry here, with the function that measures it. What a plan does not tell is never held against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dsr_export.engine_schedule.operand_types import chosen_types, computes_so, format_words
from dsr_export.engine_schedule.unfused import in_words
from dsr_export.reports.record import Check
from dsr_export.reports.wording import file_size
from dsr_export.verification.model_checks import Finding, ModelCheck, run_checks
from graphs.precisions import PRECISIONS, Precision
from graphs.quantize.formats import FORMATS, INT8

SHOWN = 3


@dataclass(frozen=True)
class Scheduled:
    """An engine of a half or quantised build: its target, and its schedule as in the report."""

    target: str
    schedule: Mapping[str, Any]


def engine_checks(engines: Mapping[str, Mapping[str, Any]], precision: Precision) -> list[Check]:
    """Of all engines whose schedules are known, by target. None in FP32, where attentions stay in several kernels."""
    told = {name: facts["schedule"] for name, facts in engines.items() if facts.get("schedule")}
    if not PRECISIONS[precision].narrow:
        return []
    found = {name: run_checks(ENGINE, Scheduled(name, each), precision) for name, each in told.items()}
    return [replace(check, target=name) for name, checks in found.items() for check in checks]


def _attentions(engine: Scheduled) -> Finding:
    found = engine.schedule["attention"]
    apart, of = found["apart"], found["of"]
    why = in_words(apart, found.get("because", {}))  # reports of earlier versions give no reasons
    told = f"{len(apart)} of {of} attentions are not one kernel, {why}: {_some(apart)}"
    return _share(found["fused"], found["of"], engine, told)


def _chosen_gemms(engine: Scheduled) -> Finding:
    chosen: dict[str, list[Mapping[str, Any]]] = {}
    for gemm in engine.schedule["gemms"]:
        if (wanted := chosen_types(gemm)) is not None:
            chosen.setdefault(wanted, []).append(gemm)
    missed = {kind: [gemm for gemm in of if not computes_so(gemm, kind)] for kind, of in chosen.items()}
    told = "; ".join(_otherwise(kind, of, len(chosen[kind])) for kind, of in missed.items() if of)
    whole = sum(map(len, chosen.values()))
    return _share(whole - sum(map(len, missed.values())), whole, engine, told)


def _otherwise(kind: str, missed: Sequence[Mapping[str, Any]], of: int) -> str:
    """Of GEMMs that compute in something else than `kind`."""
    named = [f"{gemm['node']} in {gemm['computes'] or 'a kernel that does not tell'}" for gemm in missed]
    return f"{len(missed)} of {of} GEMMs chosen for {format_words(kind)} compute in another type: {_some(named)}"


def _fp32_between(engine: Scheduled) -> Finding:
    tensors, launches = engine.schedule["fp32_between"], engine.schedule["launches"]
    beyond = [each for each in tensors if not each["declared"]]
    size = file_size(sum(each["bytes"] for each in beyond))
    behind = _some([launches[each["made_by"]]["nodes"][0] for each in beyond if launches[each["made_by"]]["nodes"]])
    told = f"{len(beyond)} FP32 tensors ({size}) lie between kernels where the graph does not compute in FP32: {behind}"
    return _share(len(tensors) - len(beyond), len(tensors), engine, told)


def _chosen_name(precision: Precision) -> str:
    """Codes of INT8 came first, and have a name of their own."""
    weights = FORMATS.get(PRECISIONS[precision].weights, INT8)
    return "quantised_gemms" if weights.is_float else "integer_gemms"


ENGINE: tuple[ModelCheck[Scheduled], ...] = (
    ModelCheck("attentions fused", lambda precision: "attentions_fused", _attentions),
    ModelCheck("chosen GEMMs", _chosen_name, _chosen_gemms),
    ModelCheck("FP32 between kernels", lambda precision: "declared_fp32_between_kernels", _fp32_between),
)


def _share(good: int, whole: int, engine: Scheduled, told: str) -> Finding:
    """The share that is as it should be, which must be all; 1 where there is nothing to share."""
    passed = good == whole
    return Finding(good / whole if whole else 1.0, 1.0, None if passed else f"engine {engine.target}: {told}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(_shown(names))


def _shown(names: Sequence[str]) -> Iterator[str]:
    yield from names[:SHOWN]
    if len(names) > SHOWN:
        yield f"and {len(names) - SHOWN} more"
