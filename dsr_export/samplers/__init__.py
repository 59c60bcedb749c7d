"""Samplers of text-to-image pipelines in numpy: diffusers' schedulers, from their `scheduler_config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.samplers import ddim, dpm_solver, flow_match_euler
from dsr_export.samplers.ddim import Ddim
from dsr_export.samplers.dpm_solver import DpmSolver
from dsr_export.samplers.flow_match_euler import FlowMatchEuler
from dsr_export.samplers.sampler import Sampler, Walk
from dsr_export.samplers.settings import WHERE, read_settings

__all__ = ["Sampler", "Walk", "sampler_from_config"]

SCHEDULERS: Mapping[str, type[Sampler]] = {
    flow_match_euler.NAME: FlowMatchEuler,
    ddim.NAME: Ddim,
    dpm_solver.NAME: DpmSolver,
}
"""Class name in diffusers -> settings."""


def sampler_from_config(config: Mapping[str, Any]) -> Sampler:
    """The sampler that the content of a `scheduler_config.json` describes: `_class_name`, and diffusers' settings.

    Raises ExportError for another scheduler, a setting that no scheduler has, or a value that makes no sampler.
    """
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise ExportError(f"{WHERE} names no _class_name", hint="is it a scheduler's file of diffusers?")
    if name not in SCHEDULERS:
        known = "known: " + ", ".join(SCHEDULERS)
        near = did_you_mean(name[:80], SCHEDULERS)
        raise ExportError(f"no sampler for the scheduler {name[:80]}", hint=f"{near} {known}" if near else known)
    return read_settings(SCHEDULERS[name], config)
