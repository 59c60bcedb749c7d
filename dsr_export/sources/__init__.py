"""What a user may name as MODEL, one form per file; `ORDER` is the order in which they are tried.

A source knows its cache key without torch, and loads the model only when a stage needs it.
"""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import Any, Protocol

from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.subject import ExportSubject, Subject, require_module


class Source(Protocol):
    """One request, understood. `name` is what the bundle is called by default."""

    @property
    def name(self) -> str: ...

    def key(self) -> dict[str, Any]:
        """JSON values that identify model, weights and options; files count by their sha256. Needs no torch."""
        ...

    def load(self) -> ExportSubject:
        """The model itself. Raises `ExportError` for everything that does not fit."""
        ...


ORDER = (
    "released_yaml",
    "pipeline_part",
    "autoencoder_folder",
    "diffusers_folder",
    "callable",
    "exported_program",
    "onnx_file",
    "registered",
)
"""Modules of this package with `accepts(request) -> bool` and `source(request) -> Source`. Names of registered models
come last: that form takes whatever is left and knows what to suggest for a misspelt name."""


def find_source(request: ModelRequest) -> Source:
    """The source of the first form that accepts `request`; raises `ExportError` where none does."""
    forms = [importlib.import_module(f"dsr_export.sources.{form}") for form in ORDER]
    chosen = next(form for form in forms if form.accepts(request))
    if request.loras and chosen not in [forms[ORDER.index(name)] for name in ("diffusers_folder", "pipeline_part")]:
        hint = "give --model-dir FOLDER, or merge them into the checkpoint first"
        raise ExportError("LoRA adapters are merged into the transformer of a diffusers folder", hint=hint)
    source: Source = chosen.source(request)
    return source


def load_subject(model: str = "digits", **options: Any) -> Subject:
    """Loads what `dsr-export build MODEL` accepts, as a PyTorch module: anything but an ONNX file.

    `options` are the fields of `ModelRequest`; any other name is a constructor argument of the model's family.
    """
    known = {each.name for each in fields(ModelRequest)}
    asked = {name: value for name, value in options.items() if name in known}
    arguments = {name: value for name, value in options.items() if name not in known}
    return require_module(find_source(ModelRequest(model=model, **{"options": arguments, **asked})).load())
