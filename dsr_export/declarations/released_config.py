"""The YAML files of the RAE and DSR trainers (`stage2.yaml`), read for what an export needs. Needs no torch.

`stage_2`, `transport`, `sampler`, `guidance` and `misc` are read strictly; `stage_1`, `training`, `eval` and the like
do not matter here. What is left out has the released default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr_export.declarations.toml_table import Table, is_number
from dsr_export.declarations.yaml_file import inner, read_yaml, section, shown
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.limits import MOST_STEPS
from dsr_export.sampling import SamplerSpec

TARGETS: Mapping[str, str] = {
    "stage2.models.lightningDiT.LightningDiT": "rae-dit",
    "stage2.models.DDT.DiTwDDTHead": "rae-dit-dh",
}
"""`stage_2.target` -> family."""
READ = ("stage_2", "transport", "sampler", "guidance", "misc")
IGNORED = ("stage_1", "training", "eval")
STAGE_KEYS = ("target", "params", "ckpt")
TRANSPORT_KEYS = ("path_type", "prediction", "loss_weight", "train_eps", "sample_eps", "time_dist_type")
SAMPLER_KEYS = ("sampling_method", "num_steps", "atol", "rtol", "reverse", "clamp_pred")
GUIDANCE_KEYS = ("method", "scale", "t_min", "t_max", "t-min", "t-max", "guidance_model")
MISC_KEYS = ("latent_size", "num_classes", "null_label", "time_dist_shift_dim", "time_dist_shift_base")


@dataclass(frozen=True, kw_only=True)
class ReleasedConfig:
    """One file's content. `params` are the constructor's arguments, not checked yet: only the family knows them.

    `sampler` is complete but for the null label, which is `null_label` or else the family's; `latent_size` is C, H, W.
    """

    path: Path
    family: str
    params: dict[str, Any]
    checkpoint: Path | None
    sampler: SamplerSpec
    latent_size: tuple[int, int, int] | None
    num_classes: int | None
    null_label: int | None


def read_released(path: Path) -> ReleasedConfig:
    """Reads and checks `path`.

    Raises ExportError, with a hint, for a file that is missing or no YAML, unknown sections and keys where they are
    near to known ones or in a section that is read, and what the sampler here cannot do.
    """
    root = Table(str(path), read_yaml(path))
    _check_sections(root)
    stage, misc = _section(root, "stage_2", *STAGE_KEYS), _section(root, "misc", *MISC_KEYS)
    if "target" not in stage:
        raise ExportError(f"{path}: stage_2.target is missing", hint="one of " + ", ".join(TARGETS))
    latent = _latent_size(misc)
    return ReleasedConfig(
        path=path,
        family=TARGETS[stage.word("target", None, tuple(TARGETS))],
        params=dict(inner(stage, "params").values),
        checkpoint=Path(stage.text("ckpt", "")) if "ckpt" in stage else None,
        sampler=_sampler(root, misc, latent),
        latent_size=latent,
        num_classes=misc.integer("num_classes", 0, least=1) if "num_classes" in misc else None,
        null_label=misc.integer("null_label", 0) if "null_label" in misc else None,
    )


def _sampler(root: Table, misc: Table, latent: tuple[int, int, int] | None) -> SamplerSpec:
    return SamplerSpec(
        num_steps=_num_steps(root),
        prediction=_prediction(root),
        shift_dim=misc.integer("time_dist_shift_dim", math.prod(latent or (768, 16, 16)), least=1),
        shift_base=misc.integer("time_dist_shift_base", 4096, least=1),
        guidance=_guidance(_section(root, "guidance", *GUIDANCE_KEYS)),
    )


def _prediction(root: Table) -> Any:
    params = inner(_section(root, "transport", "params"), "params", *TRANSPORT_KEYS)
    _supported(params, "path_type", "Linear", ("Linear",), ("GVP", "VP"))
    return _supported(params, "prediction", "velocity", ("data", "velocity"), ("noise", "score"))


def _num_steps(root: Table) -> int:
    """Without a section, the released 50 grid points."""
    sampler = _section(root, "sampler", "mode", "params")
    if not sampler.values:
        return SamplerSpec.num_steps
    _supported(sampler, "mode", "ODE", ("ODE", "ode"), ("SDE", "sde"))
    params = inner(sampler, "params", *SAMPLER_KEYS)
    _supported(params, "sampling_method", "dopri5", ("euler",), ("dopri5", "heun2", "heun3", "midpoint", "rk4"))
    if params.values.get("reverse", False) is not False:
        raise ExportError(f"{params.where}: reverse sampling is not supported", hint="set reverse: false")
    clamp = params.values.get("clamp_pred", -1)
    if not is_number(clamp) or clamp > 0:
        raise ExportError(f"{params.where}: clamp_pred = {clamp!r} is not supported", hint="leave it out")
    return params.integer("num_steps", SamplerSpec.num_steps, least=2, most=MOST_STEPS)


def _guidance(given: Table) -> float:
    """The scale; up to 1 there is no guidance, as in the released samplers, and the rest does not matter."""
    table = Table(given.where, {key.replace("-", "_"): value for key, value in given.values.items()})
    method = table.word("method", "cfg", ("cfg", "autoguidance"))
    scale, low, high = (
        _number(table, key, default) for key, default in (("scale", 1.0), ("t_min", 0.0), ("t_max", 1.0))
    )
    if scale <= 1:
        return 1.0
    if method != "cfg":
        raise ExportError(f"{table.where}: autoguidance needs a second model", hint="set method: cfg, or scale: 1.0")
    if low > 0 or high < 1:
        raise ExportError(
            f"{table.where}: guidance in the interval [{low}, {high}] only is not supported",
            hint="set t_min: 0.0 and t_max: 1.0, or scale: 1.0",
        )
    return scale


def _latent_size(misc: Table) -> tuple[int, int, int] | None:
    value = misc.values.get("latent_size")
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3 or not all(type(each) is int and each > 0 for each in value):
        raise ExportError(f"{misc.where}: latent_size is {shown(value)}", hint="give [channels, height, width]")
    if value[1] != value[2]:
        raise ExportError(f"{misc.where}: latent_size {value} is not square", hint="the model takes square latents")
    return value[0], value[1], value[2]


def _number(table: Table, key: str, default: float) -> float:
    value = table.values.get(key, default)
    if not is_number(value):
        raise ExportError(f"{table.where}: {key} is {shown(value)}", hint="give a finite number")
    return float(value)


def _supported(table: Table, key: str, default: str, can: tuple[str, ...], cannot: tuple[str, ...]) -> Any:
    """The value of `key`, one that the sampler here can do. `default` is what the released code takes without it."""
    value = table.word(key, default, (*can, *cannot))
    if value in cannot:
        given = f"{key} '{value}'" if key in table else f"'{value}', the released default of {key},"
        raise ExportError(f"{table.where}: {given} is not supported", hint=f"set {key}: " + " or ".join(can))
    return value


def _check_sections(root: Table) -> None:
    for name in root.values:
        near = did_you_mean(name, READ)
        if name not in READ + IGNORED and near:
            raise ExportError(f"{root.where}: unknown section '{name}'", hint=f"{near} read: {', '.join(READ)}")
    if "stage_2" not in root:
        raise ExportError(
            f"{root.where} has no section 'stage_2'", hint="give the YAML of a stage-2 training or sampling"
        )


def _section(root: Table, name: str, *known: str) -> Table:
    return section(f"{root.where}: {name}", root.values.get(name), *known)
