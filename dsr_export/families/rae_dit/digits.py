"""The packaged models: `digits` (the default), `digits-outliers`, `digits-gated`. Recipe: `training/digits.py`."""

from __future__ import annotations

import json
import math
from typing import Any

import safetensors.torch
import torch

from dsr_export.checkpoints import StateDict
from dsr_export.declarations.dsr_file import read_dsr_file
from dsr_export.families.family import build, read_weights
from dsr_export.families.inserted_registers import TOKENS, inserted_rows, with_registers
from dsr_export.families.network_parts.conditional import conditional_subject
from dsr_export.families.packaged import GATES, packaged_asset, packaged_file
from dsr_export.families.rae_dit.config import resolve_config
from dsr_export.families.rae_dit.models import released_sampler
from dsr_export.families.rae_dit.network import RaeDit, RaeDitConfig
from dsr_export.families.request import FamilyRequest
from dsr_export.sampling import SamplerSpec
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject
from graphs.digests import bytes_digest

OUTLIERS, GATED = "digits-outliers", "digits-gated"
MAGNITUDES = (20.0, 30.0, 45.0, 60.0)
"""Norms of the planted tokens at the four corner patches, in units of a sin-cos position row's norm."""


def load(asked: FamilyRequest) -> Subject:
    """Loads one of them, packaged unless a checkpoint or seed is given."""
    settings = packaged_settings()
    weights, provenance = _weights(asked)
    asked, rows = inserted_rows(asked, takes=True, own=isinstance(weights, int) or TOKENS in weights)
    if rows is not None and not isinstance(weights, int):
        weights = with_registers(weights, rows)
    state = None if isinstance(weights, int) else weights
    resolved = resolve_config(settings["model"], registers=asked.registers, options=asked.options, state=state)
    module, planted = build(RaeDit, resolved, weights), asked.model in (OUTLIERS, GATED)
    if planted:
        plant_outliers(module)
        provenance["edit"] = "plant_outliers"
    groups = asked.replace
    if groups is None and asked.model == GATED:
        groups = read_dsr_file(packaged_file(GATES)).spec.denoiser.replace
    elif groups is None:
        groups = _packaged_groups(settings["outliers_replace" if planted else "replace"], resolved)
    sampler = SamplerSpec(**{**settings["sampler"], "null_label": released_sampler(resolved).null_label})
    return conditional_subject(asked.model, module, replace=groups, sampler=sampler, provenance=provenance)


def packaged_settings() -> dict[str, Any]:
    """The packaged `config.json`: `model`, `sampler`, `replace` and `outliers_replace`."""
    settings: dict[str, Any] = json.loads(packaged_asset("config.json").read_bytes())
    return settings


def packaged_config() -> RaeDitConfig:
    """The architecture of the packaged weights."""
    return RaeDitConfig(**packaged_settings()["model"])


@torch.no_grad()
def plant_outliers(module: RaeDit) -> None:
    """Makes outlier tokens of the four corner patches, in place: a documented edit, the same on every machine.

    Their `pos_embed` rows get one fixed direction, (+1, -1, +1, ...) / sqrt(D), times `MAGNITUDES` times the norm
    of a sin-cos row, sqrt(D / 2). The residual stream carries that to every later block until it is replaced.
    """
    grid = module.config.input_size // module.config.patch_size
    dim = module.config.hidden_size
    direction = torch.tensor([1.0, -1.0]).repeat(dim // 2) / math.sqrt(dim)
    for row, magnitude in zip((0, grid - 1, grid * (grid - 1), grid * grid - 1), MAGNITUDES, strict=True):
        module.pos_embed[0, row] += magnitude * math.sqrt(dim / 2) * direction


def _weights(asked: FamilyRequest) -> tuple[StateDict | int, dict[str, Any]]:
    if asked.checkpoint is not None or asked.random_weights is not None:
        return read_weights(asked)
    packaged = packaged_asset("weights.safetensors").read_bytes()
    return safetensors.torch.load(packaged), {"checkpoint_sha256": bytes_digest(packaged)}


def _packaged_groups(groups: list[dict[str, Any]], config: RaeDitConfig) -> tuple[ReplaceSpec, ...]:
    """The packaged replacement draws on the model's own registers: without registers there is none."""
    if not config.register_conditioning:
        return ()
    return tuple(ReplaceSpec(**{**group, "layers": tuple(group["layers"])}) for group in groups)
