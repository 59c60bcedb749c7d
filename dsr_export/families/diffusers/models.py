"""diffusers transformers: from a folder on disk, or of any size with a checkpoint or a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError
from dsr_export.families import Value, file_sha256
from dsr_export.families.declared import with_declaration
from dsr_export.families.diffusers.files import TransformerFolder
from dsr_export.families.diffusers.subject import OPTIONS, Asked, subject_from
from dsr_export.families.diffusers.supported import SUPPORTED, adapter_of
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject
from graphs.artifacts import files_digest

NAMES: Mapping[str, str] = {each.name: each.class_name for each in SUPPORTED}
"""Registered name -> class."""
REQUIRED = ("num_layers", "num_attention_heads", "attention_head_dim")
SIGMA_TOKENS = 300  # PixArt-Sigma's prompts; its config doesn't tell it from PixArt-Alpha


def load(
    name: str,
    *,
    checkpoint: WeightFile | None,
    random_weights: int | None,
    registers: int | None,
    replace: Sequence[ReplaceSpec] | None,
    config: Mapping[str, Value],
) -> Subject:
    """Loads one of `NAMES` with constructor arguments and `OPTIONS` in `config`; see `families.load_subject`."""
    absent = [field for field in REQUIRED if field not in config]
    if absent:
        raise ExportError(f"model '{name}' needs {', '.join(absent)}", hint="give them, or a folder with --model-dir")
    arguments = {key: value for key, value in config.items() if key not in OPTIONS}
    weights = _weights(() if checkpoint is None else (checkpoint,), random_weights)
    asked = Asked(
        name=name,
        class_name=NAMES[name],
        config={**_fitting(name, arguments), **arguments},
        weights=weights,
        provenance=_provenance(weights),
        options={key: value for key, value in config.items() if key in OPTIONS},
        registers=registers,
        replace=replace or (),
    )
    return subject_from(asked)


def load_folder(
    folder: TransformerFolder,
    *,
    checkpoint: Path | None = None,
    entry: str | None = None,
    random_weights: int | None = None,
    registers: int | None = None,
    replace: Sequence[ReplaceSpec] | None = None,
    dsr: Path | None = None,
    options: Mapping[str, Value] | None = None,
) -> Subject:
    """The model in `folder`, with its own weights unless a checkpoint or a seed is given; `options` as in `OPTIONS`.

    `entry` chooses among weights as `WeightFile` does.

    Raises ExportError for everything that does not fit.
    """
    given = options or {}
    declared = with_declaration(folder.name, "denoiser", dsr, registers=registers, replace=replace, config=given)
    prompt = {"text_tokens": SIGMA_TOKENS} if "Sigma" in (folder.pipeline or "") else {}
    files = [WeightFile(path, entry) for path in (folder.weights if checkpoint is None else (checkpoint,))]
    weights = _weights(files, random_weights, folder)
    asked = Asked(
        name=folder.name,
        class_name=folder.class_name,
        config=folder.config,
        weights=weights,
        provenance={"config_sha256": file_sha256(folder.config_file), **_provenance(weights)},
        options={**prompt, **declared["config"]},
        registers=declared["registers"],
        replace=declared["replace"] or (),
    )
    return subject_from(asked)


def _weights(
    files: Sequence[WeightFile], seed: int | None, folder: TransformerFolder | None = None
) -> Sequence[WeightFile] | int:
    if seed is not None:
        return seed
    if not files:
        where = "no weights are given" if folder is None else f"{folder.path} holds no weights"
        raise ExportError(where, hint="give --checkpoint FILE, or --random-weights SEED to try out the architecture")
    return files


def _provenance(weights: Sequence[WeightFile] | int) -> dict[str, Any]:
    if isinstance(weights, int):
        return {"random_seed": weights}
    return {"checkpoint_sha256": files_digest([file.path for file in weights])}


def _fitting(name: str, arguments: Mapping[str, Value]) -> dict[str, Any]:
    """Arguments whose defaults fit the released size only, as functions of the size asked for."""
    head = int(arguments["attention_head_dim"])
    return adapter_of(NAMES[name]).fitting(head, head * int(arguments["num_attention_heads"]))
