"""What the manifest of a bundle says of its engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsr_export.bundle.manifest_parts import BundleTarget
from dsr_export.bundle.paths import plan_path
from graphs.targets import Target

OF_REPORT = frozenset({"schedule", "schedule_problem"})
"""Facts that the report alone has: long ones, which no reader of the manifest needs."""


def engine_entry(target: Target, facts: Mapping[str, Any]) -> BundleTarget:
    """The manifest's entry of an engine that was built with these facts (those of `build_engine`, but `OF_REPORT`)."""
    return BundleTarget(
        name=target.name,
        backend=target.backend,
        version=facts["version"],
        compute_capabilities=tuple(facts["compute_capabilities"]),
        engine=plan_path(target.name),
        facts={key: value for key, value in facts.items() if key not in OF_REPORT},
    )
