"""Model families: loading a registered model, and what identifies it to the stage cache. Imports no torch."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsr_export.declarations.dsr_file import dsr_digest
from dsr_export.errors import ExportError
from dsr_export.families.declared import with_declaration
from dsr_export.families.digests import file_sha256, folder_sha256, option_key
from dsr_export.families.packaged import packaged_sha256
from dsr_export.families.request import FamilyRequest as FamilyRequest
from dsr_export.families.table import ModelEntry as ModelEntry
from dsr_export.families.table import entry as entry
from dsr_export.families.table import models as models
from dsr_export.spec import ReplaceSpec

if TYPE_CHECKING:
    from dsr_export.subject import Subject

MAX_SEED = 2**63 - 1


def load_subject(
    model: str,
    *,
    checkpoint: Path | None = None,
    weights: str | None = None,
    random_weights: int | None = None,
    registers: int | None = None,
    replace: Sequence[ReplaceSpec] | None = None,
    dsr: Path | None = None,
    **options: Any,
) -> Subject:
    """`load` of a request in keywords: the fields of `FamilyRequest`, and constructor arguments beside them."""
    asked = FamilyRequest(
        model=model,
        checkpoint=checkpoint,
        weights=weights,
        random_weights=random_weights,
        registers=registers,
        replace=None if replace is None else tuple(replace),
        dsr=dsr,
        options=options,
    )
    return load(asked)


def load(asked: FamilyRequest) -> Subject:
    """The registered model that `asked` names, as a `Subject`: float32, eval mode, on the CPU.

    Weights are the checkpoint's, or drawn from the seed, or the packaged ones; never random silently.
    Raises ExportError for names, options, values and files that do not fit.
    """
    found = entry(asked.model)
    check_weights(found, asked)
    module, _, function = found.load.partition(":")
    subject: Subject = getattr(importlib.import_module(module), function)(with_declaration(asked, found.stage))
    return subject


def subject_key(asked: FamilyRequest) -> dict[str, Any]:
    """JSON values that identify what `load` makes of `asked`, for the stage cache; needs no torch.

    Files count by their sha256, not by their path. Raises ExportError where one is missing.
    """
    found = entry(asked.model)
    check_weights(found, asked)
    checkpoint, seed = asked.checkpoint, asked.random_weights
    return {
        "model": found.name,
        "checkpoint_sha256": _checkpoint_sha256(checkpoint) if checkpoint else None,
        "weights": asked.weights,
        "packaged_sha256": packaged_sha256() if found.packaged else None,
        "packaged_weights": found.packaged and checkpoint is None and seed is None,
        "random_weights": seed,
        "registers": asked.registers,
        "replace": None if asked.replace is None else [_group_key(group) for group in asked.replace],
        "dsr_sha256": dsr_digest(asked.dsr) if asked.dsr else None,
        "config": {key: option_key(key, value) for key, value in sorted(asked.options.items())},
    }


def check_weights(found: ModelEntry, asked: FamilyRequest) -> None:
    """Refuses two kinds of weights, none for a model without packaged ones, an impossible seed, a choice of nothing."""
    checkpoint, seed = asked.checkpoint, asked.random_weights
    if checkpoint is not None and seed is not None:
        raise ExportError("--checkpoint and --random-weights exclude each other", hint="give one of them")
    if checkpoint is None and seed is None and not found.packaged:
        raise ExportError(
            f"model '{found.name}' has no packaged weights", hint="give --checkpoint FILE or --random-weights SEED"
        )
    if asked.weights is not None and checkpoint is None:
        raise ExportError("--weights chooses among a checkpoint's weights", hint="give --checkpoint FILE with it")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise ExportError(f"--random-weights {seed} is no seed", hint=f"give a number from 0 to {MAX_SEED}")


def _checkpoint_sha256(path: Path) -> str:
    return folder_sha256(path) if path.is_dir() else file_sha256(path)


def _group_key(group: ReplaceSpec) -> dict[str, Any]:
    own = group.registers == "diffusion"
    return {**dataclasses.asdict(group), "registers": "diffusion" if own else file_sha256(Path(group.registers))}
