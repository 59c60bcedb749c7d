"""Refuses what a form of MODEL has no use for: an option that does nothing is worse than an error."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path

from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError, did_you_mean

_FLAGS = {"config_file": "--config", "options": "constructor arguments", "loras": "--lora"}


def refuse_unused(request: ModelRequest, form: str, *, used: Collection[str] = (), hint: str) -> None:
    """Raises `ExportError` where `request` gives anything but `model` and the fields `used`."""
    plain = ModelRequest(model=request.model)
    for field in fields(ModelRequest):
        if field.name not in ("model", *used) and getattr(request, field.name) != getattr(plain, field.name):
            flag = _FLAGS.get(field.name, "--" + field.name.replace("_", "-"))
            raise ExportError(f"{flag} does not apply to {form} ('{request.model}')", hint=hint)


def model_file(request: ModelRequest) -> Path:
    """MODEL as an existing file; `ExportError`, with the nearest name beside it, where there is none."""
    path = Path(request.model)
    if path.is_file():
        return path
    if path.exists():
        raise ExportError(f"{path} is not a regular file", hint="give the path of the model's file")
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ExportError(f"no such file: {path}", hint=did_you_mean(path.name, siblings) or "check the path")
