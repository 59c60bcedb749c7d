"""The schedules in a report, in short: for `inspect` and `diff`. The report may be anybody's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from dsr_export.errors import ExportError


def schedule_summaries(report: Mapping[str, Any]) -> dict[str, dict[str, Any] | str | None]:
    """Engine -> what its schedule adds up to, or why there is none; None where the report does not say.

    Raises:
        ExportError: a schedule of another form than this version writes.
    """
    return _each(report, _summary)


def schedule_details(report: Mapping[str, Any]) -> dict[str, dict[str, Any] | str | None]:
    """The same with `blocks`, each as in the report and with what its products `compute` in, and with `estimates`."""
    return _each(report, lambda schedule: {**_summary(schedule), **_details(schedule)})


def of_steps(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a report whose engines hold a whole step of the sampler: these functions take it as they take one."""
    found = report.get("fused_step")
    return found if isinstance(found, Mapping) else {}


def _each(
    report: Mapping[str, Any], told: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, dict[str, Any] | str | None]:
    engines = report.get("engines")
    found: dict[str, dict[str, Any] | str | None] = {}
    try:
        for name, facts in (engines or {}).items():
            schedule, problem = facts.get("schedule"), facts.get("schedule_problem")
            found[name] = told(schedule) if schedule else problem and str(problem)
    except (AttributeError, KeyError, TypeError) as error:
        raise ExportError(
            f"the schedule of an engine in report.json can't be read: {type(error).__name__} {error}",
            hint="it was written by another version or by hand; build the bundle again",
        ) from error
    return found


def _summary(schedule: Mapping[str, Any]) -> dict[str, Any]:
    attention = schedule["attention"]
    return {
        "batch": schedule["batch"],
        "launches": len(schedule["launches"]),
        "moved_bytes": schedule["moved_bytes"],
        "attentions": attention["of"],
        "attentions_fused": attention["fused"],
        "weight_gemms": dict(Counter(str(gemm["computes"]) for gemm in schedule["gemms"]).most_common()),
        "kinds": {kind: dict(of) for kind, of in schedule["kinds"].items()},
    }


def _details(schedule: Mapping[str, Any]) -> dict[str, Any]:
    types: dict[Any, Counter[str]] = {}
    for launch in schedule["launches"]:
        if isinstance(launch["computes"], str):
            types.setdefault(launch["block"], Counter())[launch["computes"]] += 1
    blocks = [{**each, "computes": dict(types.get(each["block"], {}))} for each in schedule["blocks"]]
    estimates = {name: dict(each) for name, each in schedule["estimates"].items()}
    return {"blocks": blocks, "estimates": estimates}
