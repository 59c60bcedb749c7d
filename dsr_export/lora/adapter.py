"""One LoRA file: its layers, each with the two matrices of it and how much of their product is added."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from dsr_export.checkpoints.contents import check_plain, check_total
from dsr_export.checkpoints.safe_reading import read_file
from dsr_export.errors import ExportError
from dsr_export.lora.names import ALPHA, DOWN, UP, other_kind, placed

METADATA = "lora_adapter_metadata"
"""The entry in a safetensors header in which diffusers keeps PEFT's config, as JSON, each key behind its part."""
_SAVE = "save it with save_lora_adapter or save_lora_weights of diffusers, in float32"


@dataclass(frozen=True)
class LowRank:
    """`down` [rank, in, ...] and `up` [out, rank, ...], in float32; `gain` is alpha / rank, or as PEFT reckons it."""

    down: Tensor
    up: Tensor
    gain: float


@dataclass(frozen=True)
class Adapter:
    """`layers` by part of the pipeline, then by name."""

    path: Path
    layers: Mapping[str, Mapping[str, LowRank]]


def read_adapter(path: Path) -> Adapter:
    """The LoRA in the file `path`.

    Raises ExportError for a file that is missing, damaged or no LoRA, that holds another kind of adapter, half a
    layer, or NaN.
    """
    state, _ = read_file(path)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        check_plain(path, name, tensor)
    check_total(path, tensors)
    config = _config(path)
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        place = placed(name)
        if place is None:
            raise _no_lora(path, name)
        found.setdefault((place.part, place.layer), {})[place.role] = _finite(path, name, tensor)
    if not found:
        raise ExportError(f"{path} holds no LoRA", hint=_SAVE)
    layers: dict[str, dict[str, LowRank]] = {}
    for (part, layer), tensors_of in found.items():
        layers.setdefault(part, {})[layer] = _low_rank(path, part, layer, tensors_of, config)
    return Adapter(path, layers)


def _no_lora(path: Path, name: str) -> ExportError:
    kind = other_kind(name)
    if kind is None:
        return ExportError(f"{path} is no LoRA: it holds '{name[:80]}'", hint=_SAVE)
    return ExportError(f"{path} is {kind} ('{name[:80]}'), and a plain LoRA is merged", hint="merge it in diffusers")


def _finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        raise ExportError(f"{path}: '{name[:80]}' is of the type {tensor.dtype}", hint=_SAVE)
    if not bool(torch.isfinite(tensor).all()):
        raise ExportError(f"{path}: '{name[:80]}' holds NaN or infinity", hint="take another checkpoint of it")
    return tensor.float()


def _low_rank(path: Path, part: str, layer: str, of: Mapping[str, Tensor], config: Mapping[str, Any]) -> LowRank:
    if DOWN not in of or UP not in of:
        raise ExportError(f"{path} holds half of the layer '{layer[:80]}'", hint="download or save it again")
    down, up = of[DOWN], of[UP]
    if down.ndim < 2 or up.ndim != down.ndim or up.shape[1] != down.shape[0] or any(side != 1 for side in up.shape[2:]):
        sizes = f"{list(up.shape)} and {list(down.shape)}"
        raise ExportError(f"{path}: the matrices {sizes} of '{layer[:80]}' have no product", hint=_SAVE)
    return LowRank(down, up, _gain(path, part, layer, of.get(ALPHA), down.shape[0], config))


def _gain(path: Path, part: str, layer: str, alpha: Tensor | None, rank: int, config: Mapping[str, Any]) -> float:
    """An alpha of the file, else of its config, else the rank, as diffusers takes it."""
    own = {key.removeprefix(f"{part}."): value for key, value in config.items()}
    if own.get("use_dora"):
        raise ExportError(f"{path} is DoRA, and a plain LoRA is merged", hint="merge it in diffusers")
    if alpha is not None:
        if alpha.numel() != 1:
            raise ExportError(f"{path}: the alpha of '{layer[:80]}' is no number", hint=_SAVE)
        return float(alpha.item()) / rank
    patterns = own.get("alpha_pattern") or {}
    named = next((value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", layer)), None)
    told = own.get("lora_alpha", rank) if named is None else named
    if isinstance(told, bool) or not isinstance(told, int | float):
        raise ExportError(f"{path}: its config gives '{layer[:80]}' the alpha {told!r}", hint=_SAVE)
    return float(told) / (rank**0.5 if own.get("use_rslora") else rank)


def _config(path: Path) -> dict[str, Any]:
    """PEFT's config: in the header of the file, or `adapter_config.json` beside it."""
    beside = path.parent / "adapter_config.json"
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            told = (opened.metadata() or {}).get(METADATA)
    except (safetensors.SafetensorError, OSError):
        told = None  # one of torch's own files, which has no header
    if told is None and beside.is_file() and path.name.startswith("adapter_model."):
        told = beside.read_text(encoding="utf-8")
    try:
        config = {} if told is None else json.loads(told)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"the config of {path} is no JSON: {str(error)[:100]}", hint=_SAVE) from error
    if not isinstance(config, dict):
        raise ExportError(f"the config of {path} is no JSON object", hint=_SAVE)
    return config
