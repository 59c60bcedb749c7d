"""What every report says alike, of a build, a verification or a compilation; `report.json` has a schema version."""

from __future__ import annotations

from collections.abc import Mapping

from dsr_export.bundle.reader import Bundle
from dsr_export.reports.record_parts import Component


def components_summary(components: Mapping[str, Bundle]) -> dict[str, Component]:
    """Role -> what the component is."""
    manifests = {role: component.manifest for role, component in components.items()}
    return {role: Component(name=each.name, precision=each.precision) for role, each in manifests.items()}
