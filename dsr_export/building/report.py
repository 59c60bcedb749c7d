"""The report of a finished build: what its stages found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from dsr_export.backends.engines_here import NOT_RUN
from dsr_export.building.build import Build
from dsr_export.building.finished import Finished, FusedSteps
from dsr_export.bundle.paths import plan_path, step_plan_path
from dsr_export.bundle.writer import Content, content_size
from dsr_export.int8.gemm_costs import gemm_costs
from dsr_export.peak_memory import peak_rss_bytes
from dsr_export.readable import readable
from dsr_export.reports.reading import Entry, entries
from dsr_export.reports.record import Check, NotRun, Picture, Report, Row, all_passed
from dsr_export.reports.summary import components_summary
from dsr_export.stages.quantize import Quantized
from dsr_export.storage.made_with import tool_versions
from dsr_export.verification.engine_checks import engine_checks
from dsr_export.verification.model_checks import BUILT, Weights, passed_when_built, run_checks
from dsr_export.verification.reference_checks import reference_checks
from graphs.precisions import report_key

_APART = ("rewrites", "in_floats", "coded_products")
"""Facts of a typed graph that the report has elsewhere."""


def build_report(build: Build, done: Finished, contents: Mapping[str, Content]) -> Report:
    """The report of a finished build; `passed` is the verdict over parity and checks."""
    named = [(of, Entry("parity", candidate.facts)) for of, candidate in done.parity]
    rows = tuple(replace(Row.read(row), target=of) for of, each in named for row in entries(each, "rows"))
    images = tuple(Picture.read(row) for of, each in named if of is None for row in entries(each, "images"))
    engines = engine_checks(_all_engines(done), build.config.precision)
    advice = [*reference_checks(done.reference.golden), *engines]
    missed = [] if build.config.strict else [str(each.problem) for each in advice if not each.passed]
    checks, first = (*_checks(build, done), *(advice if build.config.strict else ())), done.parity[0][1].facts
    for problem in missed:
        build.reporter.note(f"{problem} (--strict makes a failure of it)")
    return Report(
        bundle=readable(str(build.out)),
        passed=all_passed(rows, checks, images) and all(each.values["passed"] for _, each in named),
        precision=build.config.precision,
        target=build.targets[0].name,
        targets=tuple(each.name for each in build.targets),
        stages=tuple(build.log),
        parity=rows,
        images=images,
        checks=checks,
        trajectory_snr_db=tuple(first["trajectory_snr_db"]),
        samples=tuple(strip for of, each in named if of is None for strip in each.values["samples"]),
        bisection=first["bisection"],
        engines_not_run=_not_run(build),
        components=components_summary(build.components),
        files={name: content_size(name, content) for name, content in sorted(contents.items())},
        tools=tool_versions(),
        peak_rss_bytes=peak_rss_bytes(),
        sections={**_sections(build, done), "advice": missed},
    )


def _all_engines(done: Finished) -> dict[str, Mapping[str, Any]]:
    """Facts of the model's engines by target, and of those that hold a whole step by their place in the bundle."""
    steps = {} if done.steps is None else done.steps.engines
    models = {name: engine.facts for name, engine in done.engines.items()}
    return {**models, **{step_plan_path(name): engine.facts for name, engine in steps.items()}}


def _checks(build: Build, done: Finished) -> tuple[Check, ...]:
    """Of the model, and whether its components passed when they were built."""
    precision = build.config.precision
    narrow = min(each.facts["half_weight_fraction"] for each in done.typed.values())
    weights = Weights(precision=precision, narrow=narrow)
    verdicts = {role: component.report().get("passed") is True for role, component in build.components.items()}
    parts = (passed_when_built(role, passed) for role, passed in verdicts.items())
    return (*run_checks(BUILT, weights, precision), *parts)


def _sections(build: Build, done: Finished) -> dict[str, Any]:
    """What single stages tell."""
    card, forms = done.traced.card, [facts for each in done.typed.values() for facts in each.facts["rewrites"].items()]
    rewrites = {**done.lowered.facts, **done.optimized.facts, **dict(forms)}
    return {
        "model": {"name": card.name, "family": card.family, "parameters": card.parameters},
        "batch": asdict(build.config.batch),
        "special_rows": done.reference.facts,
        **{key: done.parity[0][1].facts[key] for key in ("sites", "tensors")},
        "rewrites": {name: facts["count"] for name, facts in rewrites.items()},
        "rewrite_details": rewrites,
        "token_norms": done.norms.facts,
        "typing": {key: value for key, value in done.shipped.facts.items() if key not in _APART},
        "range_audit": done.audited.audit.as_dict(),
        **(
            {}
            if done.quantized is None
            else {report_key(build.config.precision): _quantized(build, done, done.quantized)}
        ),
        "engines": {name: engine.facts for name, engine in done.engines.items()},
        **({} if done.steps is None else {"fused_step": _fused_step(done.steps)}),
    }


def _quantized(build: Build, done: Finished, quantized: Quantized) -> dict[str, Any]:
    """What the stage tells, what engines have of it, and what that costs at the batch that engines are tuned for."""
    floats, coded = (
        {name for each in done.typed.values() for name in each.facts[key]} for key in ("in_floats", "coded_products")
    )
    gemms = [
        {**gemm, "engine_floats": gemm["name"] in floats, "coded_product": gemm["name"] in coded}
        for gemm in quantized.facts["gemms"]
    ]
    return {**quantized.facts, "gemms": gemms, "cost": gemm_costs(gemms, build.config.batch.opt)}


def _fused_step(steps: FusedSteps) -> dict[str, Any]:
    """Of the graphs that hold a whole step of the sampler."""
    return {
        "images": asdict(steps.images),
        "graphs": list(steps.graphs),
        "engines": {name: engine.facts for name, engine in steps.engines.items()},
    }


def _not_run(build: Build) -> tuple[NotRun, ...]:
    ran = {each.name for each in build.runnable_targets}
    left = [each.name for each in build.engine_targets if each.name not in ran]
    return tuple(NotRun(target=name, engine=plan_path(name), reason=NOT_RUN) for name in left)
