"""What an engine of a bundle launches: from its plan, or from the bundle's report where the plan holds no text."""

from __future__ import annotations

from dsr_export.bundle.manifest_parts import BundleTarget
from dsr_export.bundle.reader import Bundle
from dsr_export.engine_schedule.reader import read_schedule_file
from dsr_export.engine_schedule.record import EngineSchedule
from dsr_export.engine_schedule.recorded import recorded_schedule

RTX = "tensorrt_rtx"


def bundle_schedule(bundle: Bundle, engine: BundleTarget, batch: int) -> EngineSchedule:
    """At that batch, which an RTX plan tells of every one that it serves, and a report of the one it is tuned for.

    Raises:
        UnreadableSchedule: it is not told.
    """
    if engine.backend == RTX:
        return read_schedule_file(bundle.file(str(engine.engine)), batch)
    return recorded_schedule(bundle.report(), engine.name, batch)
