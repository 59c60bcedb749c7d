"""`--model-dir FOLDER` of a diffusers `AutoencoderRAE`: its encoder, or its decoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dsr_export.config import ModelRequest
from dsr_export.declarations.dsr_file import dsr_digest
from dsr_export.families import FamilyRequest
from dsr_export.families.autoencoder.config import (
    AutoencoderFolder,
    Part,
    autoencoder_path,
    open_autoencoder,
    part_of,
)
from dsr_export.families.digests import file_sha256
from dsr_export.readable import readable
from dsr_export.sources.diffusers_folder import check_folder_request
from dsr_export.subject import Subject
from graphs.digests import files_digest


@dataclass(frozen=True)
class AutoencoderFolderSource:
    """The folder of one request; its files are read when they are first needed."""

    request: ModelRequest
    directory: Path
    path: Path
    part: Part

    @property
    def name(self) -> str:
        return f"{readable(self.directory.resolve().name)}-{self.part}"

    def key(self) -> dict[str, Any]:
        asked, folder = self.request, self._folder
        return {
            "class": "AutoencoderRAE",
            "part": self.part,
            "config_sha256": file_sha256(self.path / "config.json"),
            "weights_sha256": files_digest(list(folder.weights)) if folder.weights else None,
            "checkpoint_sha256": file_sha256(asked.checkpoint) if asked.checkpoint else None,
            "weights": asked.weights,
            "random_weights": asked.random_weights,
            "registers": asked.registers,
            "dsr_sha256": dsr_digest(asked.dsr) if asked.dsr else None,
        }

    def load(self) -> Subject:
        from dsr_export.families.autoencoder.models import load_part

        return load_part(self._folder, FamilyRequest.of(self.request, model=self.name))

    @cached_property
    def _folder(self) -> AutoencoderFolder:
        asked = self.request
        return open_autoencoder(self.path, own_weights=asked.checkpoint is None and asked.random_weights is None)


def accepts(request: ModelRequest) -> bool:
    """A model folder that holds an `AutoencoderRAE`, or of which a part is asked for."""
    return request.model_dir is not None and autoencoder_path(request.model_dir, request.options) is not None


def source(request: ModelRequest) -> AutoencoderFolderSource:
    """The source. Raises ExportError where no part is named, or the request also names a model, or weights twice."""
    folder = check_folder_request(request)
    path = autoencoder_path(folder, request.options)
    assert path is not None  # `accepts` found it
    return AutoencoderFolderSource(request, folder, path, part_of(request.options))
