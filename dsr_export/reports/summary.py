"""What every report says alike, of a build, a verification or a compilation; `report.json` has a schema version."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from typing import Any

from dsr_export.bundle.reader import Bundle

SCHEMA_VERSION = 1


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
