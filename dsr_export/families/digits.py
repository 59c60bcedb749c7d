"""The packaged models `digits` (the default) and `digits-outliers`; recipe: `dsr_export/training/digits.py`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch

from dsr_export.checkpoints import StateDict
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.families import packaged_asset
from dsr_export.families.rae_dit.config import Value, resolve_config
from dsr_export.families.rae_dit.models import (
    build_module,
    default_sampler,
    read_weights,
    subject_from_module,
)
from dsr_export.families.rae_dit.network import RaeDit, RaeDitConfig
from dsr_export.sampling import SamplerSpec
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject

OUTLIERS = "digits-outliers"
MAGNITUDES = (20.0, 30.0, 45.0, 60.0)
"""Norms of the planted tokens at the four corner patches, in units of a sin-cos position row's norm."""


def load(
    name: str,
    *,
    checkpoint: WeightFile | None,
    random_weights: int | None,
    registers: int | None,
    replace: Sequence[ReplaceSpec] | None,
    config: Mapping[str, Value],
) -> Subject:
    """Loads `digits` or `digits-outliers`, packaged unless a checkpoint or seed is given."""
    settings = packaged_settings()
    weights, provenance = _weights(checkpoint, random_weights)
    state = None if isinstance(weights, int) else weights
    resolved = resolve_config(settings["model"], registers=registers, options=config, state=state)
    module = build_module(resolved, weights)
    if name == OUTLIERS:
        plant_outliers(module)
        provenance["edit"] = "plant_outliers"
    if replace is None:
        replace = _packaged_groups(settings["outliers_replace" if name == OUTLIERS else "replace"], resolved)
    sampler = SamplerSpec(**{**settings["sampler"], "null_label": default_sampler(resolved).null_label})
    return subject_from_module(name, module, replace=replace, sampler=sampler, provenance=provenance)


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


def _weights(checkpoint: WeightFile | None, random_weights: int | None) -> tuple[StateDict | int, dict[str, Any]]:
    if checkpoint is not None or random_weights is not None:
        return read_weights(checkpoint, random_weights)
    packaged = packaged_asset("weights.safetensors").read_bytes()
    return safetensors.torch.load(packaged), {"checkpoint_sha256": hashlib.sha256(packaged).hexdigest()}


def _packaged_groups(groups: list[dict[str, Any]], config: RaeDitConfig) -> tuple[ReplaceSpec, ...]:
    """The packaged replacement draws on the model's own registers: without registers there is none."""
    if not config.register_conditioning:
        return ()
    return tuple(ReplaceSpec(**{**group, "layers": tuple(group["layers"])}) for group in groups)
