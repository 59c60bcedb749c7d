"""MODEL as an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsr_export.config import ModelRequest
from dsr_export.sources.options import model_file, refuse_unused
from graphs.artifacts import files_digest
from graphs.external_data import external_files
from graphs.foreign import read_foreign

if TYPE_CHECKING:
    from dsr_export.onnx_subject import OnnxSubject


@dataclass(frozen=True)
class OnnxFileSource:
    """A `.onnx` file, with its weights inside or beside it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    def key(self) -> dict[str, Any]:
        """The file and its external data by content. Raises `ExportError` for a file that is refused."""
        return {"form": "onnx", **self._provenance}

    def load(self) -> OnnxSubject:
        from dsr_export.onnx_subject import load_onnx

        return load_onnx(self.path, name=self.name, provenance=self._provenance)

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        files = external_files(read_foreign(self.path), self.path.parent)  # checked before any of them is opened
        return {"onnx_sha256": files_digest([self.path, *files])}


def accepts(request: ModelRequest) -> bool:
    """A name that ends in `.onnx`."""
    return request.model.lower().endswith(".onnx")


def source(request: ModelRequest) -> OnnxFileSource:
    """The source. Raises `ExportError` where the file is missing, or for options that only a PyTorch model takes."""
    refuse_unused(request, "an ONNX file", hint="the file holds its weights; change them before it is exported")
    return OnnxFileSource(model_file(request))
