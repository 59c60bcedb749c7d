"""Whether a bundle was built of the part of a pipeline that it is to stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError


def eager(module: nn.Module) -> nn.Module:
    """What `torch.compile` was given, where it has wrapped one."""
    inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else module


def check_same_model(bundle: Bundle, original: nn.Module, role: str) -> None:
    """Raises ExportError for a bundle of another class, or of other sizes."""
    config = dict(bundle.manifest.model["config"])
    built, here = config.get("_class_name"), type(eager(original)).__name__
    if built != here:
        what = f"was built of a {built}" if built else "was not built of a diffusers transformer"
        raise ExportError(f"{bundle.path} {what}, and the pipeline's {role} is a {here}", hint="build with --model-dir")
    own = _values(original.config, config)
    differ = [name for name in sorted(own) if name[0] != "_" and _plain(config[name]) != _plain(own[name])]
    if differ:
        name = differ[0]
        told = f"{name} is {config[name]!r} there, and {own[name]!r} in the pipeline"
        raise ExportError(f"{bundle.path} was built of another {here}: {told}", hint="build it of this pipeline")


def _values(own: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `names` that a configuration has: a mapping of diffusers', or an object of transformers'."""
    if isinstance(own, Mapping):
        return {name: own[name] for name in names if name in own}
    return {name: getattr(own, name) for name in names if hasattr(own, name)}


def _plain(value: Any) -> Any:
    """JSON has no tuples."""
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
