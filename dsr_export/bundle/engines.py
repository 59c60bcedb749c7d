"""The engines of a bundle: where a plan lies, and what the manifest says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsr_export.bundle.manifest_parts import BundleTarget
from dsr_export.bundle.paths import STEP
from graphs.targets import Target

OF_REPORT = frozenset({"schedule", "schedule_problem"})
"""Facts that the report alone has: long ones, which no reader of the manifest needs."""


def plan_path(target: str) -> str:
    """`engines/<target>.plan`, with a dash for the colon that some file systems refuse."""
    return f"engines/{target.replace(':', '-')}.plan"


def step_plan_path(target: str) -> str:
    """Where the engine lies that holds a whole step of the sampler; reports call it so, too."""
    return STEP + plan_path(target)


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
