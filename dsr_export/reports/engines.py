"""What a report tells of the engines in a bundle: of the model, and of whole steps of its sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsr_export.bundle.paths import step_plan_path
from dsr_export.reports import reading
from dsr_export.reports.record import Report

Json = Mapping[str, Any]


def model_engines(report: Report) -> dict[str, Json]:
    """Target -> facts. ExportError for a report of another form, as `step_engines`."""
    return _engines(reading.section(report.bundle, report.sections, "engines"))


def step_engines(report: Report) -> dict[str, Json]:
    """Place in the bundle, as rows and checks call such an engine, -> facts."""
    steps = report.section("fused_step")
    if steps is None:
        return {}
    found = _engines(reading.section(steps.at, steps.values, "engines"))
    return {step_plan_path(name): facts for name, facts in found.items()}


def _engines(found: reading.Entry | None) -> dict[str, Json]:
    return {} if found is None else {name: reading.mapping(found, name).values for name in found.values}
