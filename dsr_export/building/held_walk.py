"""The walk of its pipeline that a transformer is held against where nothing is calibrated on one."""

from __future__ import annotations

from collections.abc import Callable

from dsr_export.config import ExportConfig
from dsr_export.errors import ExportError
from dsr_export.pipelines.plan import PipelinePlan
from dsr_export.walks.asked import PipelineWalk, unquantised_walk
from dsr_export.walks.torch_pipeline import is_pipeline
from graphs.precisions import PRECISIONS

UNWALKED = "nothing of the pipeline's own walk is checked"


def held_walk(config: ExportConfig, plan: PipelinePlan | None, note: Callable[[str], None]) -> PipelineWalk | None:
    """The walk, where `plan` brings the pipeline's encoders along: by themselves they may be larger than the machine.

    None where there is none to be had, and why in a `note`: what prompts make can be far larger than drawn rows are,
    and a low type may not hold it.
    """
    encodes = plan is not None and plan.encodes_all
    if not is_pipeline(config) or not (encodes or PRECISIONS[config.precision].narrow):
        return None
    try:
        walk = unquantised_walk(config)
    except ExportError as error:
        note(f"{UNWALKED}: {error.message}")
        return None
    if not encodes:
        note(f"{UNWALKED}, but drawn rows alone: --components all checks both")
    return walk if encodes else None
