"""`--config stage2.yaml`: a model as the RAE and DSR trainers describe it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dsr_export.config import ModelRequest
from dsr_export.declarations.released_config import ReleasedConfig, read_released
from dsr_export.errors import ExportError
from dsr_export.families import FamilyRequest, check_weights, entry, subject_key
from dsr_export.families.declared import with_declaration
from dsr_export.families.digests import file_sha256
from dsr_export.readable import readable
from dsr_export.subject import Subject


@dataclass(frozen=True)
class ReleasedSource:
    """The file of one request; read when it is first needed."""

    request: ModelRequest
    file: Path

    @property
    def name(self) -> str:
        return readable(self.file.stem)

    def key(self) -> dict[str, Any]:
        key = subject_key(dataclasses.replace(self._asked, model=self._config.family))
        return {"name": self.name, "config_sha256": file_sha256(self.file), **key}

    def load(self) -> Subject:
        from dsr_export.families.rae_dit.released import subject_from_released

        return subject_from_released(self._config, with_declaration(self._asked, "denoiser"))

    @cached_property
    def _asked(self) -> FamilyRequest:
        return FamilyRequest.of(self.request, model=self.name, checkpoint=self._checkpoint)

    @cached_property
    def _config(self) -> ReleasedConfig:
        return read_released(self.file)

    @cached_property
    def _checkpoint(self) -> Path | None:
        """The one asked for; else, unless weights are random, the file's own where it is there."""
        asked, own = self.request, self._config.checkpoint
        if asked.checkpoint is not None or asked.random_weights is not None:
            return asked.checkpoint
        if own is not None and own.is_file():
            return own
        state = "none" if own is None else f"{own}, which is {'a folder' if own.is_dir() else 'not here'}"
        raise ExportError(
            f"{self.file}: stage_2.ckpt names no weights ({state})",
            hint="give --checkpoint FILE or --random-weights SEED",
        )


def accepts(request: ModelRequest) -> bool:
    """A request with a YAML file."""
    return request.config_file is not None


def source(request: ModelRequest) -> ReleasedSource:
    """The source. Raises ExportError where the request also names a model, or weights twice."""
    if request.config_file is None:
        raise ExportError("no configuration is given", hint="give --config FILE")
    if request.model != ModelRequest.model:
        raise ExportError(f"both the model '{request.model}' and --config are given", hint="give one of them")
    if request.model_dir is not None:
        raise ExportError("both --model-dir and --config are given", hint="give one of them")
    if request.checkpoint is not None or request.random_weights is not None:
        check_weights(entry("rae-dit"), FamilyRequest.of(request))
    return ReleasedSource(request, request.config_file)
