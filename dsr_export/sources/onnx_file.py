"""MODEL as an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsr_export.config import ModelRequest
from dsr_export.declarations.dsr_file import dsr_digest
from dsr_export.readable import readable
from dsr_export.sources.options import model_file, refuse_unused
from graphs.digests import files_digest
from graphs.foreign.brought_in import read_foreign
from graphs.foreign.external_data import external_files

if TYPE_CHECKING:
    from dsr_export.subjects.onnx_graph import OnnxSubject


@dataclass(frozen=True)
class OnnxFileSource:
    """A `.onnx` file, with its weights inside or beside it, and a declaration of sites to insert, if any."""

    path: Path
    dsr: Path | None = None

    @property
    def name(self) -> str:
        return readable(self.path.stem)

    def key(self) -> dict[str, Any]:
        """The files and their external data by content. Raises `ExportError` for a file that is refused."""
        return {"form": "onnx", **self._provenance, "dsr_sha256": dsr_digest(self.dsr) if self.dsr else None}

    def load(self) -> OnnxSubject:
        from dsr_export.subjects.onnx_graph import load_onnx

        return load_onnx(self.path, name=self.name, provenance=self._provenance, dsr=self.dsr)

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        files = external_files(read_foreign(self.path), self.path.parent)  # checked before any of them is opened
        return {"onnx_sha256": files_digest([self.path, *files])}


def accepts(request: ModelRequest) -> bool:
    """A name that ends in `.onnx`."""
    return request.model.lower().endswith(".onnx")


def source(request: ModelRequest) -> OnnxFileSource:
    """The source. Raises `ExportError` where the file is missing, or for options that only a PyTorch model takes."""
    hint = "the file holds its weights; change them before it is exported"
    refuse_unused(request, "an ONNX file", used=("dsr",), hint=hint)
    return OnnxFileSource(model_file(request), request.dsr)
