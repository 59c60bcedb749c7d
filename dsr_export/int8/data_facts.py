"""What the report says of the data that a calibration was measured on, from its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calibration.table import Table
from dsr_export.declarations.int8_options import PROMPTS, RANDOM, TRAJECTORY

FILES = "files"
WALKED = ("images", "steps", "pipeline")


def data_facts(table: Table) -> list[dict[str, Any]]:
    """One entry for each run that is in the table: JSON values."""
    return [_facts(run) for run in table.runs]


def _facts(run: Mapping[str, Any]) -> dict[str, Any]:
    """Of walks their number and length; of prompts their number, as the table has them all."""
    kind = _kind(run.get("kind"))
    if kind != TRAJECTORY and "pipeline" not in run:
        return {"kind": kind}
    prompts = run.get("prompts")
    counted = {"prompts": len(prompts)} if isinstance(prompts, list) else {}
    return {"kind": kind, **{key: run[key] for key in WALKED if key in run}, **counted}


def _kind(asked: Any) -> str:
    """Files by what they are: where they lay is of no use to who reads it."""
    text = str(asked)
    if text == TRAJECTORY or text.startswith(RANDOM):
        return text
    return "prompts" if text.lower().endswith(PROMPTS) else FILES
