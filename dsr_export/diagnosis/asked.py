"""What a diagnosis is asked to do and what it comes to, whatever the model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.progress import Reporter
from dsr_export.readable import readable
from dsr_export.storage.atomic import atomic_file
from dsr_export.subject import Subject

ENCODERS = ("images", "detect_layer", "threshold", "highest_layer", "top_k", "rounds")
DENOISERS = ("count", "steps", "seed")
PIPELINES = ("prompts",)


@dataclass(frozen=True, kw_only=True)
class DiagnosisOptions:
    """What a diagnosis is asked to do; None takes the default.

    `images` and the fields up to `rounds` are for encoders, `count` to `seed` for denoisers, `prompts` (a file) for
    pipelines, `inputs` for transformers alone. `out` defaults to ./MODEL.diagnosis; `write_dsr` is one more copy of
    dsr.toml.
    """

    images: Path | None = None
    detect_layer: int | None = None
    threshold: float | None = None
    highest_layer: int | None = None
    top_k: int | None = None
    rounds: int | None = None
    prompts: Path | None = None
    inputs: Path | None = None
    count: int | None = None
    steps: int | None = None
    seed: int | None = None
    out: Path | None = None
    write_dsr: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class Outcome:
    """What goes into the folder besides the record."""

    record: dict[str, Any]
    page: str
    toml: str | None
    neurons: str | None


def model_words(request: ModelRequest) -> tuple[str, ...]:
    """The model and its weights as words of a command line; `--dsr` is what a diagnosis replaces."""
    words = [request.model] if request.model_dir is None else []
    for field in fields(ModelRequest):
        value = getattr(request, field.name)
        if field.name not in ("model", "dsr", "options", "loras") and value is not None:
            words += [
                "--config" if field.name == "config_file" else "--" + field.name.replace("_", "-"),
                readable(str(value)),
            ]
    for lora in request.loras:
        words += ["--lora", readable(str(lora))]
    for name, value in request.options.items():
        words += ["--option", readable(f"{name}={str(value).lower() if isinstance(value, bool) else value}")]
    return tuple(words)


def write_copy(path: Path | None, toml: str | None, said: Reporter) -> None:
    """One more copy of dsr.toml, where one is asked for."""
    if path is None:
        return
    if toml is None:
        said.note(f"{path} is not written: there is nothing to declare")
        return
    with atomic_file(path) as temporary:
        temporary.write_text(toml, encoding="utf-8")


def refuse(subject: Subject, asked: DiagnosisOptions, names: tuple[str, ...], form: str) -> None:
    """Raises ExportError where one of the options `names`, which are for `form`, is given."""
    for name in names:
        if getattr(asked, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise ExportError(f"{flag} is for {form}, and {subject.name} is none", hint=f"leave {flag} out")
