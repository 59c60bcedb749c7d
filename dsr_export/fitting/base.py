"""The model that registers are trained for, without what is to be trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dsr_export.config import ModelRequest
from dsr_export.declarations.dsr_file import DsrFile, read_dsr_file
from dsr_export.errors import ExportError
from dsr_export.fitting.data import SELF
from dsr_export.fitting.request import FitOptions
from dsr_export.sources import find_source
from dsr_export.storage.leftovers import scratch_folder
from dsr_export.subject import Subject, require_module


def loaded_base(request: ModelRequest, declared: DsrFile) -> tuple[Subject, dict[str, Any]]:
    """The model, and what identifies it. `declared` may say where its own registers enter, or that it goes without.

    Raises ExportError for a model that does not load.
    """
    if "denoiser.kind" in declared.given and declared.spec.denoiser.kind == "none":
        return _under(request, 'kind = "none"')
    placed, start = "denoiser.start" in declared.given and declared.register_file is None, declared.spec.denoiser.start
    try:
        found = _loaded(dataclasses.replace(request, dsr=None))
    except ExportError:
        if not placed:
            raise
        return _under(request, f"start = {start}")
    own = found[0].dsr.denoiser
    return _under(request, f"start = {start}") if placed and own.registers and own.start != start else found


def check_kept(request: ModelRequest, asked: FitOptions) -> None:
    """ExportError where `--out` would be written over what is read: it is replaced as a whole."""
    declared = read_dsr_file(asked.dsr, trainable=True)
    own = [] if declared.register_file is None else [declared.register_file]
    data = [] if asked.data == SELF else [Path(asked.data)]
    given = [request.checkpoint, request.model_dir, Path(request.model), asked.dsr, *declared.files, *own, *data]
    for path in given:
        if path is not None and path.exists() and path.resolve().is_relative_to(asked.out.resolve()):
            raise ExportError(
                f"{asked.out} holds {path}, which is read, and would be replaced", hint="give another --out"
            )


def _under(request: ModelRequest, line: str) -> tuple[Subject, dict[str, Any]]:
    with scratch_folder("fit-base") as folder:
        file = folder / "dsr.toml"
        file.write_text(f"[denoiser]\n{line}\n", encoding="utf-8")
        return _loaded(dataclasses.replace(request, dsr=file))


def _loaded(request: ModelRequest) -> tuple[Subject, dict[str, Any]]:
    source = find_source(request)
    return require_module(source.load()), source.key()
