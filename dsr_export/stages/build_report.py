"""The report of a finished build: what its stages found, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dsr_export.backends.engines_here import NOT_RUN
from dsr_export.bundle.engines import plan_path
from dsr_export.bundle.writer import Content, content_size
from dsr_export.parity.narrowing import precision_check
from dsr_export.readable import readable
from dsr_export.reports.summary import SCHEMA_VERSION, component_check, components_summary, peak_rss_bytes
from dsr_export.stages.build import Build
from dsr_export.stages.finished import Finished
from dsr_export.storage.made_with import tool_versions


def build_report(build: Build, done: Finished, contents: Mapping[str, Content]) -> dict[str, Any]:
    """The report of a finished build; `passed` is the verdict over parity and precision."""
    card, typing = done.traced.card, done.typed.facts
    checked = [candidate.facts for candidate in done.parity]
    checks = [precision_check(build.config.precision, typing["half_weight_fraction"])]
    checks += [component_check(role, component) for role, component in build.components.items()]
    rewrites = {**done.lowered.facts, **done.optimized.facts}
    return {
        "schema_version": SCHEMA_VERSION,
        "from_build": [],
        "bundle": readable(str(build.out)),
        "passed": all(each["passed"] for each in [*checks, *checked]),
        "precision": build.config.precision,
        "target": build.targets[0].name,
        "targets": [each.name for each in build.targets],
        "model": {"name": card.name, "family": card.family, "parameters": card.parameters},
        "batch": asdict(build.config.batch),
        "stages": list(build.log),
        "parity": [row for each in checked for row in each["rows"]],
        "special_rows": done.reference.facts,
        "trajectory_snr_db": checked[0]["trajectory_snr_db"],
        "samples": [strip for each in checked for strip in each["samples"]],
        "images": [row for each in checked for row in each["images"]],
        **{key: checked[0][key] for key in ("sites", "tensors", "bisection")},
        "checks": checks,
        "engines_not_run": _not_run(build),
        "manifest_digest": None,  # the manifest lists this very report
        "signed_by": None,
        "components": components_summary(build.components),
        "rewrites": {name: facts["count"] for name, facts in rewrites.items()},
        "rewrite_details": rewrites,
        "token_norms": done.norms.facts,
        "typing": typing,
        "range_audit": done.audited.audit.as_dict(),
        **({} if done.quantized is None else {"int8": done.quantized.facts}),
        "engines": {name: engine.facts for name, engine in done.engines.items()},
        "files": {name: content_size(name, content) for name, content in sorted(contents.items())},
        "tools": tool_versions(),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _not_run(build: Build) -> list[dict[str, Any]]:
    ran = {each.name for each in build.runnable_targets}
    left = [each.name for each in build.engine_targets if each.name not in ran]
    return [{"target": name, "engine": plan_path(name), "reason": NOT_RUN} for name in left]
