"""What an engine launches, in a line: the terminal's, Markdown's, and a comparison's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dsr_export.reports.engines import model_engines, step_engines
from dsr_export.reports.figures import number
from dsr_export.reports.record import Report
from dsr_export.reports.wording import file_size


def schedule_lines(report: Report) -> Iterator[str]:
    """`engine rtx: 116 launches, 8 of 8 attentions fused, 16.2 MB at batch 2`, one for each engine.

    Engines that hold a whole step of the sampler are among them. Nothing for engines of reports that do not say.
    """
    for name, facts in {**model_engines(report), **step_engines(report)}.items():
        if facts.get("schedule"):
            yield f"engine {name}: {schedule_words(facts['schedule'])}"
        elif facts.get("schedule_problem"):
            yield f"engine {name}: {facts['schedule_problem']}"


def schedule_words(schedule: Mapping[str, Any]) -> str:
    """The same of one schedule."""
    attention = schedule["attention"]
    fused = f"{number(attention['fused'], 'd')} of {number(attention['of'], 'd')} attentions fused, "
    return (
        f"{len(schedule['launches'])} launches, {fused if attention['of'] else ''}"
        f"{file_size(schedule['moved_bytes'])} at batch {number(schedule['batch'], 'd')}"
    )
