"""`report.json`: what a build or a verification found, in plain values with a schema version."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dsr_export.build import Build
from dsr_export.bundle.engines import plan_path
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import Content, content_size
from dsr_export.cache import tool_versions
from dsr_export.engines_here import NOT_RUN
from dsr_export.narrowing import precision_check
from dsr_export.readable import readable
from dsr_export.stages.finished import Finished

SCHEMA_VERSION = 1


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


def component_check(role: str, component: Bundle) -> dict[str, Any]:
    """Whether a component passed when it was built: a pipeline is no better than its parts."""
    return passed_when_built(role, component.report().get("passed") is True)


def passed_when_built(role: str, passed: bool) -> dict[str, Any]:
    """The check of a component whose own report has this verdict."""
    return {"component": role, "name": "passed_when_built", "value": float(passed), "limit": 1.0, "passed": passed}


def components_summary(components: Mapping[str, Bundle]) -> dict[str, Any]:
    """Role -> what the component is."""
    manifests = {role: component.manifest for role, component in components.items()}
    return {role: {"name": each.name, "precision": each.precision} for role, each in manifests.items()}


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
