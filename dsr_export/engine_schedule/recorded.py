"""A schedule that stands in a report, for engines whose plans tell theirs only where they were built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsr_export.engine_schedule.facts import UNREADABLE
from dsr_export.engine_schedule.plan_text import UnreadableSchedule
from dsr_export.engine_schedule.products import Product
from dsr_export.engine_schedule.record import KINDS, EngineSchedule, Launch
from dsr_export.engine_schedule.tensors import BITS, MOST_ELEMENTS


def recorded_schedule(report: Mapping[str, Any], target: str, batch: int) -> EngineSchedule:
    """The launches of that target's engine; what they pass on (`passed`) is left out. The report may be anybody's.

    Raises:
        UnreadableSchedule: the report has no schedule of it at `batch`, or none of the form that is written here.
    """
    try:
        facts = report["engines"][target]
        schedule, problem = facts.get("schedule"), facts.get("schedule_problem")
        if schedule is None:
            raise UnreadableSchedule(problem.removeprefix(UNREADABLE) if problem else "its report has none")
        if schedule["batch"] != batch:
            raise UnreadableSchedule(f"its report has it at batch {schedule['batch']}")
        launches = tuple(map(_launch, schedule["launches"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableSchedule(f"its report is of another form ({type(error).__name__} {error})") from error
    if not launches:
        raise UnreadableSchedule("its report has no launches")
    return EngineSchedule(batch=batch, launches=launches, passed=())


def _launch(told: Mapping[str, Any]) -> Launch:
    computes, operations = told["computes"], told["operations"]
    if told["kind"] not in KINDS or (computes is None) != (operations is None):
        raise ValueError(f"a launch of the kind {told['kind']!r}")
    product = None if computes is None else Product(str(computes), _count(operations))
    return Launch(
        kind=told["kind"],
        kernel=str(told["kernel"]),
        nodes=tuple(map(str, told["nodes"])),
        block=told["block"],
        read=_bytes(told["read"]),
        written=_bytes(told["written"]),
        computes=None if product is None else product.computes,
        operations=None if product is None else product.operations,
    )


def _bytes(told: Mapping[str, Any]) -> dict[str, int]:
    unknown = [kind for kind in told if kind not in BITS]
    if unknown:
        raise ValueError(f"the element type {unknown[0]!r}")
    return {kind: _count(size) for kind, size in told.items()}


def _count(told: Any) -> int:
    if isinstance(told, bool) or not isinstance(told, int) or not 0 <= told <= MOST_ELEMENTS**2:
        raise ValueError(f"the number {told!r:.40}" if isinstance(told, int | float | str) else "no number")
    return told
