"""diffusers transformers: from a folder on disk, or of any size with a checkpoint or a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsr_export.checkpoints.absent_weights import no_weights
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError
from dsr_export.families.declared import with_declaration
from dsr_export.families.diffusers.adapters import adapter_of
from dsr_export.families.diffusers.files import TransformerFolder
from dsr_export.families.diffusers.general.subject import general_subject
from dsr_export.families.diffusers.subject import OPTIONS, Asked, subject_from
from dsr_export.families.diffusers.supported import SUPPORTED
from dsr_export.families.digests import Value, file_sha256
from dsr_export.families.request import FamilyRequest
from dsr_export.subject import Subject
from graphs.digests import files_digest

NAMES: Mapping[str, str] = {each.name: each.class_name for each in SUPPORTED}
"""Registered name -> class."""
REQUIRED = ("num_layers", "num_attention_heads", "attention_head_dim")
SIGMA_TOKENS = 300  # PixArt-Sigma's prompts; its config doesn't tell it from PixArt-Alpha


def load(asked: FamilyRequest) -> Subject:
    """Loads one of `NAMES` with constructor arguments and `OPTIONS` in its options; see `families.load`."""
    name, config = asked.model, asked.options
    absent = [field for field in REQUIRED if field not in config]
    if absent:
        raise ExportError(f"model '{name}' needs {', '.join(absent)}", hint="give them, or a folder with --model-dir")
    arguments = {key: value for key, value in config.items() if key not in OPTIONS}
    checkpoint = asked.weight_file
    weights = _weights(() if checkpoint is None else (checkpoint,), asked.random_weights)
    transformer = Asked(
        name=name,
        class_name=NAMES[name],
        config={**_fitting(name, arguments), **arguments},
        weights=weights,
        provenance=_provenance(weights),
        options={key: value for key, value in config.items() if key in OPTIONS},
        registers=asked.registers,
        replace=asked.groups,
    )
    return subject_from(transformer)


def load_folder(folder: TransformerFolder, asked: FamilyRequest) -> Subject:
    """The model in `folder`, with its own weights unless others are asked for; its options are those in `OPTIONS`.

    Raises ExportError for everything that does not fit.
    """
    declared = with_declaration(asked, "denoiser")
    prompt = {"text_tokens": SIGMA_TOKENS} if "Sigma" in (folder.pipeline or "") else {}
    paths = folder.weights if asked.checkpoint is None else (asked.checkpoint,)
    weights = _weights([WeightFile(path, asked.weights) for path in paths], asked.random_weights, folder)
    provenance = {"config_sha256": file_sha256(folder.config_file), **_provenance(weights)}
    if folder.class_name not in NAMES.values():
        return general_subject(folder, declared, weights, provenance)
    transformer = Asked(
        name=folder.name,
        class_name=folder.class_name,
        config=folder.config,
        weights=weights,
        provenance=provenance,
        options={**prompt, **declared.options},
        registers=declared.registers,
        replace=declared.groups,
        loras=declared.loras,
    )
    return subject_from(transformer)


def _weights(
    files: Sequence[WeightFile], seed: int | None, folder: TransformerFolder | None = None
) -> Sequence[WeightFile] | int:
    if seed is not None:
        return seed
    if not files:
        hint = "give --checkpoint FILE, or --random-weights SEED to try out the architecture"
        if folder is not None:
            raise no_weights(folder.path, f"{folder.path} holds no weights", hint=hint)
        raise ExportError("no weights are given", hint=hint)
    return files


def _provenance(weights: Sequence[WeightFile] | int) -> dict[str, Any]:
    if isinstance(weights, int):
        return {"random_seed": weights}
    return {"checkpoint_sha256": files_digest([file.path for file in weights])}


def _fitting(name: str, arguments: Mapping[str, Value]) -> dict[str, Any]:
    """Arguments whose defaults fit the released size only, as functions of the size asked for."""
    head = int(arguments["attention_head_dim"])
    return adapter_of(NAMES[name]).fitting(head, head * int(arguments["num_attention_heads"]))
