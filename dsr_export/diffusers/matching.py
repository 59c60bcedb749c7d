"""Whether a bundle was built of the transformer that it is to stand for."""

from __future__ import annotations

from typing import Any

from torch import nn

from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError


def check_same_model(bundle: Bundle, original: nn.Module) -> None:
    """Raises ExportError for a bundle of another class, or of other sizes."""
    config = dict(bundle.manifest.model["config"])
    built, here = config.get("_class_name"), type(original).__name__
    if built != here:
        what = f"was built of a {built}" if built else "was not built of a diffusers transformer"
        raise ExportError(f"{bundle.path} {what}, and the pipeline's is a {here}", hint="build with --model-dir")
    own: Any = original.config
    differ = [name for name in sorted(set(own) & set(config)) if name[0] != "_" and not _same(config[name], own[name])]
    if differ:
        name = differ[0]
        told = f"{name} is {config[name]!r} there, and {own[name]!r} in the pipeline"
        raise ExportError(f"{bundle.path} was built of another {here}: {told}", hint="build it of this pipeline")


def _same(built: Any, here: Any) -> bool:
    """JSON has no tuples."""
    first, second = (list(each) if isinstance(each, tuple) else each for each in (built, here))
    return bool(first == second)
