"""What the report tells of an engine's schedule: JSON values, or why there are none."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import onnx

from dsr_export.engine_schedule.dsr_sites import site_costs
from dsr_export.engine_schedule.graph_sites import GraphSites
from dsr_export.engine_schedule.inspector import read_inspection
from dsr_export.engine_schedule.operand_types import INTEGERS
from dsr_export.engine_schedule.plan_text import Plan, UnreadableSchedule
from dsr_export.engine_schedule.reader import read_schedule
from dsr_export.engine_schedule.record import ATTENTION, COPY, GEMM, EngineSchedule
from dsr_export.engine_schedule.roofline import estimates, not_estimated
from dsr_export.engine_schedule.unfused import unfused_because

SCHEDULE, PROBLEM = "schedule", "schedule_problem"
UNREADABLE = "the schedule of this plan cannot be read: "


def schedule_facts(plan: Plan, model: onnx.ModelProto, batch: int, largest: int | None = None) -> dict[str, Any]:
    """`schedule` of the engine of `model` at `batch`, or None and in `schedule_problem` why.

    `largest` is the batch that it takes at most; None for `batch` itself.
    """
    try:
        schedule = read_schedule(plan, batch)
        _check_nodes(schedule, model)
        return {SCHEDULE: schedule_dict(schedule, GraphSites(model), largest or batch), PROBLEM: None}
    except UnreadableSchedule as error:
        return no_schedule(str(error))


def inspected_facts(text: str, model: onnx.ModelProto, batch: int, largest: int | None = None) -> dict[str, Any]:
    """The same of what TensorRT's engine inspector tells; `unlisted_weights` counts those that the graph tells."""
    try:
        sites = GraphSites(model)
        found = read_inspection(text, batch, sites)
        _check_nodes(found.schedule, model)
        more = {"unlisted_weights": len(found.unlisted_weights)} if found.unlisted_weights else {}
        return {SCHEDULE: schedule_dict(found.schedule, sites, largest or batch) | more, PROBLEM: None}
    except UnreadableSchedule as error:
        return no_schedule(str(error))


def no_schedule(reason: str) -> dict[str, Any]:
    """The same of a plan that is not understood."""
    return {SCHEDULE: None, PROBLEM: f"{UNREADABLE}{reason}"}


def schedule_dict(schedule: EngineSchedule, sites: GraphSites, largest: int) -> dict[str, Any]:
    """The launches, what they add up to, and what became of the graph's attentions and GEMMs."""
    fp32, costs = sites.fp32_nodes(), site_costs(schedule.launches)
    return {
        "batch": schedule.batch,
        "moved_bytes": schedule.moved,
        "kinds": schedule.by_kind(),
        "blocks": schedule.by_block(),
        "attention": _attention(schedule, sites, largest),
        "gemms": _gemms(schedule, sites),
        "fp32_between": [
            {**asdict(each), "read_by": list(each.read_by), "declared": _declared(each.made_by, schedule, fp32)}
            for each in schedule.passed
        ],
        "estimates": estimates(schedule.launches),
        "not_estimated": not_estimated(schedule.launches),
        **({} if costs is None else {"dsr_sites": costs}),
        "launches": [each.as_dict() for each in schedule.launches],
    }


def _check_nodes(schedule: EngineSchedule, model: onnx.ModelProto) -> None:
    """A plan of this graph names nodes of it; one that has no name is given some name."""
    known = {node.name for node in model.graph.node}
    strange = [node for each in schedule.launches for node in each.nodes if node not in known]
    if strange and "" not in known:
        raise UnreadableSchedule(f"it names the node {strange[0]!r}, which the graph lacks")


def _attention(schedule: EngineSchedule, sites: GraphSites, largest: int) -> dict[str, Any]:
    """An attention is fused where one kernel holds its softmax and both products."""
    inside = {node for each in schedule.launches if each.kind == ATTENTION for node in each.nodes}
    attentions = sites.attentions()
    apart = [node for node in attentions if node not in inside]
    because = {node: reason for node in apart if (reason := unfused_because(sites.attention(node), largest))}
    return {"fused": len(attentions) - len(apart), "of": len(attentions), "apart": apart, "because": because}


def _gemms(schedule: EngineSchedule, sites: GraphSites) -> list[dict[str, Any]]:
    """`computes` is None for a GEMM that no kernel names, `chosen` for one that the graph asks no codes of."""
    kernels, chosen = _computing(schedule), sites.chosen()
    return [
        {
            "node": node,
            "computes": kernels.get(node),
            "chosen": chosen.get(node),
            "chosen_integer": chosen.get(node) in INTEGERS,
        }
        for node in sites.weight_gemms()
    ]


def _computing(schedule: EngineSchedule) -> Mapping[str, str | None]:
    """ONNX node -> what the GEMM that names it computes in."""
    launches = (each for each in schedule.launches if each.kind == GEMM)
    return {node: each.computes for each in launches for node in each.nodes}


def _declared(made_by: int, schedule: EngineSchedule, fp32: Collection[str]) -> bool:
    """Whether the graph computes in FP32 where the tensor is made; what only converts it does so for its readers."""
    maker = schedule.launches[made_by]
    return any(node in fp32 for node in maker.nodes) or maker.kind == COPY
