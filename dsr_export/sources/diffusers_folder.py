"""`--model-dir FOLDER`: a diffusers transformer, or a pipeline with one, on disk; the network is never asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dsr_export.config import ModelRequest
from dsr_export.declarations.dsr_file import dsr_digest
from dsr_export.declarations.lora_file import LoraFile
from dsr_export.errors import ExportError
from dsr_export.families import MAX_SEED, FamilyRequest
from dsr_export.families.diffusers.files import TransformerFolder, open_folder
from dsr_export.families.digests import file_sha256, option_key
from dsr_export.readable import readable
from dsr_export.subject import Subject
from graphs.digests import files_digest


@dataclass(frozen=True)
class DiffusersFolderSource:
    """The folder of one request; read when it is first needed."""

    request: ModelRequest
    directory: Path

    @property
    def name(self) -> str:
        return readable(self.directory.resolve().name)

    def key(self) -> dict[str, Any]:
        asked, folder = self.request, self._folder
        return {
            "class": folder.class_name,
            "pipeline": folder.pipeline,
            "config_sha256": file_sha256(folder.config_file),
            "weights_sha256": files_digest(list(folder.weights)) if folder.weights else None,
            "checkpoint_sha256": file_sha256(asked.checkpoint) if asked.checkpoint else None,
            "weights": asked.weights,
            "random_weights": asked.random_weights,
            "registers": asked.registers,
            "dsr_sha256": dsr_digest(asked.dsr) if asked.dsr else None,
            "options": {name: option_key(name, value) for name, value in sorted(asked.options.items())},
            **lora_key(asked.loras),
        }

    def load(self) -> Subject:
        from dsr_export.families.diffusers.models import load_folder

        return load_folder(self._folder, FamilyRequest.of(self.request, model=self._folder.name))

    def check_adapters(self) -> None:
        """Raises ExportError where an adapter does not fit the transformer, of which no weight is read."""
        if self.request.loras:
            from dsr_export.families.diffusers.weights import check_loras

            check_loras(self._folder.class_name, self._folder.config, self.request.loras)

    def check_weights(self) -> None:
        """Raises ExportError for files of weights that are damaged or none, as far as their headers tell."""
        check_weights(self._folder.weights if self.request.checkpoint is None else (self.request.checkpoint,))

    @cached_property
    def _folder(self) -> TransformerFolder:
        asked = self.request
        return open_folder(self.directory, own_weights=asked.checkpoint is None and asked.random_weights is None)


def check_weights(files: Sequence[Path]) -> None:
    """Raises ExportError for the first that is damaged, or no file of weights, as far as its header tells."""
    from dsr_export.checkpoints.safe_reading import check_readable  # which brings torch along

    for file in files:
        check_readable(file)


def lora_key(loras: Sequence[LoraFile]) -> dict[str, Any]:
    """What of a key stands for merged adapters; nothing where there are none."""
    return {"loras": [[file_sha256(each.path), each.scale] for each in loras]} if loras else {}


def accepts(request: ModelRequest) -> bool:
    """A request with a model folder."""
    return request.model_dir is not None


def source(request: ModelRequest) -> DiffusersFolderSource:
    """The source. Raises ExportError where the request also names a model, or weights twice."""
    return DiffusersFolderSource(request, check_folder_request(request))


def check_folder_request(request: ModelRequest) -> Path:
    """The folder. Raises ExportError where the request also names a model, or weights twice."""
    if request.model_dir is None:
        raise ExportError("no model folder is given", hint="give --model-dir FOLDER")
    if request.model != ModelRequest.model:
        raise ExportError(f"both the model '{request.model}' and --model-dir are given", hint="give one of them")
    seed = request.random_weights
    if seed is not None and request.weights is not None:
        raise ExportError("--weights chooses among stored weights, and --random-weights draws them", hint="give one")
    if request.checkpoint is not None and seed is not None:
        raise ExportError("--checkpoint and --random-weights exclude each other", hint="give one of them")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise ExportError(f"--random-weights {seed} is no seed", hint=f"give a number from 0 to {MAX_SEED}")
    return request.model_dir
