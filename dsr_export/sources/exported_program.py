"""MODEL as a `.pt2` file, as `torch.export.save` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsr_export.config import ModelRequest
from dsr_export.readable import readable
from dsr_export.sources.options import model_file, refuse_unused
from graphs.digests import files_digest

if TYPE_CHECKING:
    from dsr_export.subject import Subject


@dataclass(frozen=True)
class ExportedProgramSource:
    """A program with its weights."""

    path: Path

    @property
    def name(self) -> str:
        return readable(self.path.stem)

    def key(self) -> dict[str, Any]:
        return {"form": "exported-program", **self._provenance}

    def load(self) -> Subject:
        from dsr_export.subjects.program import load_program

        return load_program(self.path, name=self.name, provenance=self._provenance)

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        return {"program_sha256": files_digest([self.path])}


def accepts(request: ModelRequest) -> bool:
    """A name that ends in `.pt2`."""
    return request.model.lower().endswith(".pt2")


def source(request: ModelRequest) -> ExportedProgramSource:
    """The source. Raises `ExportError` where the file is missing, or for options that only a module takes."""
    refuse_unused(request, "an exported program", hint="the program is fixed; change the module and export it again")
    return ExportedProgramSource(model_file(request))
