"""A released configuration and weights as a `Subject`, with everything that the two say checked against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dsr_export.declarations.released_config import ReleasedConfig
from dsr_export.errors import ExportError
from dsr_export.families.digests import file_sha256
from dsr_export.families.family import Family, build, check_widths, read_weights
from dsr_export.families.network_parts.conditional import conditional_subject
from dsr_export.families.rae_dit.models import FAMILY as RAE_DIT
from dsr_export.families.rae_dit.models import released_sampler
from dsr_export.families.rae_dit.network import RaeDitConfig
from dsr_export.families.rae_dit.wide_head_models import FAMILY as RAE_DIT_DH
from dsr_export.families.request import FamilyRequest
from dsr_export.families.schema import Schema, Value, checked, resolve
from dsr_export.sampling import SamplerSpec
from dsr_export.subject import Subject

FAMILIES: Mapping[str, Family[Any]] = {family.name: family for family in (RAE_DIT, RAE_DIT_DH)}
REGISTERS = ("register_conditioning", "register_len", "register_start")


def subject_from_released(released: ReleasedConfig, asked: FamilyRequest) -> Subject:
    """The model that `released` describes. Registers and options that are asked for win over the file.

    Raises ExportError for arguments the constructor does not take, sections that contradict each other, and a
    checkpoint of another model.
    """
    family = FAMILIES[released.family]
    params = _params(family.schema, released)
    options = checked(family.schema, asked.options, owner=family.name, label="option ")
    weights, provenance = read_weights(asked)
    state = None if isinstance(weights, int) else weights
    if state is not None:
        _check_checkpoint(family.schema, released, {**params, **options}, asked.registers, state)
    resolved = resolve(family.schema, params, registers=asked.registers, options=options, state=state)
    if state is not None:
        check_widths(family, released.path.name, resolved, state)
    _check_misc(released, resolved.trunk)
    return conditional_subject(
        asked.model,
        build(family.module, resolved, weights),
        replace=asked.groups,
        sampler=_sampler(released, resolved.trunk),
        provenance={**provenance, "config_sha256": file_sha256(released.path)},
    )


def _params(schema: Schema[Any], released: ReleasedConfig) -> dict[str, Value]:
    """The constructor's arguments. Without `register_conditioning` it ignores the other two about registers."""
    where = f"{released.path}: stage_2.params"
    params = checked(schema, released.params, owner=where, label=f"{where}.")
    if not params.get("register_conditioning", False):
        return {key: value for key, value in params.items() if key not in REGISTERS}
    for key, example in (("register_len", 36), ("register_start", 8)):
        if key not in params:
            raise ExportError(
                f"{where}: register_conditioning is true, and '{key}' is missing",
                hint=f"give what the model was trained with, for example {key}: {example}",
            )
    return params


def _check_checkpoint(
    schema: Schema[Any],
    released: ReleasedConfig,
    given: Mapping[str, Value],
    registers: int | None,
    state: Mapping[str, Tensor],
) -> None:
    """What the checkpoint's shapes say has to be what the file, or an option in its place, says."""
    said = {**schema.defaults, **given, **({} if registers is None else {"register_len": registers})}
    for key, found in schema.sizes_of(state).items():
        if said[key] != found:
            hint = "give the file that the checkpoint was trained with"
            if key == "register_len" and found and not said[key]:
                hint += f", or set register_conditioning: true, register_len: {found} and register_start"
            raise ExportError(
                f"{released.path}: stage_2.params.{key} is {said[key]}, and the checkpoint has {found}", hint=hint
            )


def _check_misc(released: ReleasedConfig, trunk: RaeDitConfig) -> None:
    made = (trunk.in_channels, trunk.input_size, trunk.input_size)
    for key, said, built in (
        ("latent_size", released.latent_size, made),
        ("num_classes", released.num_classes, trunk.num_classes),
    ):
        if said is not None and said != built:
            raise ExportError(
                f"{released.path}: misc.{key} is {_plain(said)}, and stage_2.params make {_plain(built)}",
                hint="correct the one that is wrong",
            )


def _sampler(released: ReleasedConfig, trunk: RaeDitConfig) -> SamplerSpec:
    """The file's, with the null label that the model has."""
    rows = trunk.num_classes + (trunk.class_dropout_prob > 0)
    null = released_sampler(trunk).null_label if released.null_label is None else released.null_label
    if null is not None and null >= rows:
        raise ExportError(f"{released.path}: misc.null_label is {null}, and labels end at {rows - 1}")
    if null is None and released.sampler.guidance != 1.0:
        raise ExportError(
            f"{released.path}: guidance needs a null label, which class_dropout_prob: 0 leaves out",
            hint="set guidance.scale: 1.0",
        )
    return dataclasses.replace(released.sampler, null_label=null)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
