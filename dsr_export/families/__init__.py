"""Model families: loading a registered model, and what identifies it to the stage cache. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from dsr_export.declarations.dsr_file import dsr_digest
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError
from dsr_export.families.declared import with_declaration
from dsr_export.families.folders import folder_sha256
from dsr_export.families.table import ModelEntry as ModelEntry
from dsr_export.families.table import entry as entry
from dsr_export.families.table import models as models
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject
from graphs.artifacts import files_digest

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

JSON: TypeAlias = bool | int | float | str | list["JSON"] | dict[str, "JSON"] | None
Value: TypeAlias = bool | int | float | str
MAX_SEED = 2**63 - 1
FILE_OPTIONS = ("latent_stats", "register_file")
"""Options that name a file: they count by its content."""


def load_subject(
    model: str,
    *,
    checkpoint: Path | None = None,
    weights: str | None = None,
    random_weights: int | None = None,
    registers: int | None = None,
    replace: Sequence[ReplaceSpec] | None = None,
    dsr: Path | None = None,
    **config: Value,
) -> Subject:
    """Loads a registered model as a `Subject`: float32, eval mode, on the CPU.

    Weights are the checkpoint's (`weights` says which of those that it holds, see `WeightFile`), or drawn from the
    seed `random_weights`, or the packaged ones; never random silently. `registers` is R (0: none; None: what the
    checkpoint or the model has), `replace` the replacement groups (None: the model's own), `dsr` a TOML file that
    declares both, `config` any constructor arguments of the family.
    Raises ExportError for names, options, values and files that do not fit.
    """
    found = entry(model)
    check_weights(found, checkpoint, random_weights, weights)
    file = None if checkpoint is None else WeightFile(checkpoint, weights)
    declared = with_declaration(found.name, found.stage, dsr, registers=registers, replace=replace, config=config)
    module, _, function = found.load.partition(":")
    load = getattr(importlib.import_module(module), function)
    subject: Subject = load(found.name, checkpoint=file, random_weights=random_weights, **declared)
    return subject


def subject_key(
    model: str,
    checkpoint: Path | None = None,
    random_weights: int | None = None,
    registers: int | None = None,
    *,
    weights: str | None = None,
    replace: Sequence[ReplaceSpec] | None = None,
    dsr: Path | None = None,
    **config: Value,
) -> dict[str, JSON]:
    """What identifies `load_subject` of the same arguments, for the stage cache; needs no torch.

    Files count by their sha256, not by their path. Raises ExportError where one is missing.
    """
    found = entry(model)
    check_weights(found, checkpoint, random_weights, weights)
    packaged = found.packaged and checkpoint is None and random_weights is None
    return {
        "model": found.name,
        "checkpoint_sha256": _checkpoint_sha256(checkpoint) if checkpoint else None,
        "weights": weights,
        "packaged_sha256": packaged_sha256() if found.packaged else None,
        "packaged_weights": packaged,
        "random_weights": random_weights,
        "registers": registers,
        "replace": None if replace is None else [_group_key(group) for group in replace],
        "dsr_sha256": dsr_digest(dsr) if dsr else None,
        "config": {key: option_key(key, value) for key, value in sorted(config.items())},
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


def _checkpoint_sha256(path: Path) -> str:
    return folder_sha256(path) if path.is_dir() else file_sha256(path)


def option_key(name: str, value: Value) -> JSON:
    """What an option counts as in a cache key: a file by its content."""
    return file_sha256(Path(str(value))) if name in FILE_OPTIONS else value


def _group_key(group: ReplaceSpec) -> dict[str, JSON]:
    own = group.registers == "diffusion"
    return {**dataclasses.asdict(group), "registers": "diffusion" if own else file_sha256(Path(group.registers))}


def check_weights(found: ModelEntry, checkpoint: Path | None, seed: int | None, entry: str | None = None) -> None:
    """Refuses two kinds of weights, none for a model without packaged ones, an impossible seed, a choice of nothing."""
    if checkpoint is not None and seed is not None:
        raise ExportError("--checkpoint and --random-weights exclude each other", hint="give one of them")
    if checkpoint is None and seed is None and not found.packaged:
        raise ExportError(
            f"model '{found.name}' has no packaged weights", hint="give --checkpoint FILE or --random-weights SEED"
        )
    if entry is not None and checkpoint is None:
        raise ExportError("--weights chooses among a checkpoint's weights", hint="give --checkpoint FILE with it")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise ExportError(f"--random-weights {seed} is no seed", hint=f"give a number from 0 to {MAX_SEED}")
