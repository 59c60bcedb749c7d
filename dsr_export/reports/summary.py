"""What every report says alike, of a build, a verification or a compilation; `report.json` has a schema version."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping

from dsr_export.bundle.reader import Bundle
from dsr_export.reports.record_parts import Component


def components_summary(components: Mapping[str, Bundle]) -> dict[str, Component]:
    """Role -> what the component is."""
    manifests = {role: component.manifest for role, component in components.items()}
    return {role: Component(name=each.name, precision=each.precision) for role, each in manifests.items()}


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
