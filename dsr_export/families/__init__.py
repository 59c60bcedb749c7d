"""Model families. This file holds the one table of registered models, and imports no torch.

A new family is one file with a `load` function, and its entries below.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject
from graphs.artifacts import files_digest

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

JSON: TypeAlias = bool | int | float | str | list["JSON"] | dict[str, "JSON"] | None
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A registered model. `parameters` counts weights as built without options; `load` is `module:function`."""

    name: str
    family: str
    description: str
    packaged: bool
    parameters: int | None
    load: str


_DIGITS = "dsr_export.families.digits:load"
_RAE_DIT = "dsr_export.families.rae_dit_models:load"


def _rae_dit(letter: str, parameters: int) -> ModelEntry:
    return ModelEntry(
        name=f"rae-dit-{letter.lower()}",
        family="rae-dit",
        description=f"RAE LightningDiT-{letter} with diffusion registers, 16x16x768 latents, 1000 classes",
        packaged=False,
        parameters=parameters,
        load=_RAE_DIT,
    )


_MODELS = (
    ModelEntry(
        name="digits",
        family="rae-dit",
        description="trained 16x16 digits denoiser with 4 diffusion registers (the default)",
        packaged=True,
        parameters=2_241_924,
        load=_DIGITS,
    ),
    ModelEntry(
        name="digits-outliers",
        family="rae-dit",
        description="the digits denoiser with planted outlier tokens, which run-time replacement removes",
        packaged=True,
        parameters=2_241_924,
        load=_DIGITS,
    ),
    _rae_dit("S", 33_677_440),
    _rae_dit("B", 131_939_584),
    _rae_dit("L", 459_997_152),
    _rae_dit("XL", 677_331_328),
)
_FREE = ModelEntry(
    name="rae-dit",
    family="rae-dit",
    description="RAE LightningDiT of any size: give hidden_size, depth and num_heads",
    packaged=False,
    parameters=None,
    load=_RAE_DIT,
)


def models() -> tuple[ModelEntry, ...]:
    """Registered models, the default first. `rae-dit` (free configuration) is accepted too, but not listed."""
    return _MODELS


def entry(name: str) -> ModelEntry:
    """The registered model called `name`; ExportError, naming the nearest and all of them, where there is none."""
    known = {model.name: model for model in (*_MODELS, _FREE)}
    if name not in known:
        names = "registered models: " + ", ".join(model.name for model in _MODELS)
        near = did_you_mean(name, known)
        raise ExportError(f"no model is called '{name}'", hint=f"{near} {names}" if near else names)
    return known[name]


def load_subject(
    model: str,
    *,
    checkpoint: Path | None = None,
    random_weights: int | None = None,
    registers: int | None = None,
    replace: Sequence[ReplaceSpec] | None = None,
    **config: bool | int | float,
) -> Subject:
    """Loads a registered model as a `Subject`: float32, eval mode, on the CPU.

    Weights are the checkpoint's, or drawn from the seed `random_weights`, or the packaged ones; never random
    silently. `registers` is R (0: none; None: what the checkpoint or the model has), `replace` the replacement
    groups (None: the model's own), `config` any constructor arguments of the family.
    Raises ExportError for names, options, values and files that do not fit.
    """
    found = entry(model)
    _check_weights(found, checkpoint, random_weights)
    module, _, function = found.load.partition(":")
    subject: Subject = getattr(importlib.import_module(module), function)(
        found.name,
        checkpoint=checkpoint,
        random_weights=random_weights,
        registers=registers,
        replace=replace,
        config=config,
    )
    return subject


def subject_key(
    model: str,
    checkpoint: Path | None = None,
    random_weights: int | None = None,
    registers: int | None = None,
    *,
    replace: Sequence[ReplaceSpec] | None = None,
    **config: bool | int | float,
) -> dict[str, JSON]:
    """What identifies `load_subject` of the same arguments, for the stage cache; needs no torch.

    Files count by their sha256, not by their path. Raises ExportError where one is missing.
    """
    found = entry(model)
    _check_weights(found, checkpoint, random_weights)
    packaged = found.packaged and checkpoint is None and random_weights is None
    return {
        "model": found.name,
        "checkpoint_sha256": file_sha256(checkpoint) if checkpoint else None,
        "packaged_sha256": packaged_sha256() if found.packaged else None,
        "packaged_weights": packaged,
        "random_weights": random_weights,
        "registers": registers,
        "replace": None if replace is None else [_group_key(group) for group in replace],
        "config": dict(sorted(config.items())),
    }


def packaged_asset(name: str) -> Traversable:
    """A file of `dsr_export/assets/digits`; ExportError where the installation lacks it."""
    found = resources.files("dsr_export").joinpath("assets", "digits", name)
    if not found.is_file():
        raise ExportError(f"the installation lacks its packaged file assets/digits/{name}", hint="install it again")
    return found


def packaged_sha256() -> str:
    """sha256 over the packaged configuration and weights."""
    digest = hashlib.sha256(packaged_asset("config.json").read_bytes())
    digest.update(packaged_asset("weights.safetensors").read_bytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a user's file; ExportError where there is none."""
    if not path.is_file():
        raise ExportError(f"no such file: {path}", hint="check the path")
    return files_digest([path])


def _group_key(group: ReplaceSpec) -> dict[str, JSON]:
    own = group.registers == "diffusion"
    return {**dataclasses.asdict(group), "registers": "diffusion" if own else file_sha256(Path(group.registers))}


def _check_weights(found: ModelEntry, checkpoint: Path | None, seed: int | None) -> None:
    if checkpoint is not None and seed is not None:
        raise ExportError("--checkpoint and --random-weights exclude each other", hint="give one of them")
    if checkpoint is None and seed is None and not found.packaged:
        raise ExportError(
            f"model '{found.name}' has no packaged weights", hint="give --checkpoint FILE or --random-weights SEED"
        )
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise ExportError(f"--random-weights {seed} is no seed", hint=f"give a number from 0 to {MAX_SEED}")
