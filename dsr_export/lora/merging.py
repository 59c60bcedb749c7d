"""Adapters onto the weights of a model: which layer each is of is found before any weight is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.declarations.lora_file import LoraFile
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.digests import file_sha256
from dsr_export.lora.adapter import Adapter, LowRank, read_adapter

_BASE = "it was trained for another model, or is named otherwise: convert it with diffusers' load_lora_weights first"


TRANSFORMER = "transformer"
_WITHIN = "text_model."
"""What some releases of transformers put in front of the names of a text encoder's layers, and others do not."""


@dataclass(frozen=True)
class Merge:
    """What one file adds to the layers of a model, `part` of a pipeline, by their names in it."""

    file: LoraFile
    adapter: Adapter
    part: str
    layers: Mapping[str, LowRank]

    def into(self, model: nn.Module) -> None:
        """Adds it, in place and in float32."""
        with torch.no_grad():
            for name, layer in self.layers.items():
                weight = _weight(model, name)
                weight += (self.file.scale * layer.gain) * _product(layer).reshape(weight.shape)

    @property
    def record(self) -> dict[str, Any]:
        """For the manifest: which file, how strong, how many layers; and how many are for other parts."""
        others = {part: len(layers) for part, layers in self.adapter.layers.items() if part != self.part}
        return {
            "file": self.file.path.name,
            "sha256": file_sha256(self.file.path),
            "scale": self.file.scale,
            "layers": len(self.layers),
            "ranks": sorted({layer.down.shape[0] for layer in self.layers.values()}),
            **({"for_other_parts": others} if others else {}),
        }


def plan(model: nn.Module, files: Sequence[LoraFile], called: str, part: str = TRANSFORMER) -> list[Merge]:
    """How `files` are merged into `model`, whose parameters may have no memory yet.

    It is `called` so in errors, and is that `part` of a pipeline; a file may hold nothing for a text encoder.
    Raises ExportError for what is no LoRA, and for one of another base model.
    """
    adapters = [(file, read_adapter(file.path)) for file in files]
    needed = [(file, adapter) for file, adapter in adapters if part == TRANSFORMER or part in adapter.layers]
    return [_planned(model, file, adapter, called, part) for file, adapter in needed]


def merged(model: nn.Module, planned: Iterable[Merge]) -> list[dict[str, Any]]:
    """Merges, in order; the records of what was done.

    Raises ExportError where the sum is not finite.
    """
    records = []
    for each in planned:
        each.into(model)
        broken = [name for name in each.layers if not bool(torch.isfinite(_weight(model, name)).all())]
        if broken:
            message = f"{each.file.path} times {each.file.scale:g} makes '{broken[0]}' infinite"
            raise ExportError(message, hint="use a smaller scale")
        records.append(each.record)
    return records


def _planned(model: nn.Module, file: LoraFile, adapter: Adapter, called: str, part: str) -> Merge:
    own = adapter.layers.get(part, {})
    if not own:
        parts = ", ".join(adapter.layers)
        raise ExportError(f"{file.path} holds nothing for the {part}, only {parts}", hint="merge it in diffusers")
    names = _modules(model)
    layers = {_found(file, layer, names, called): each for layer, each in own.items()}
    for name, each in layers.items():
        weight = _weight(model, name)
        if tuple(weight.shape) != (each.up.shape[0], *each.down.shape[1:]):
            adds = [each.up.shape[0], *each.down.shape[1:]]
            message = f"{file.path} adds {adds} to '{name}' of {called}, which is {list(weight.shape)}"
            raise ExportError(message, hint=_BASE)
    return Merge(file, adapter, part, layers)


def _modules(model: nn.Module) -> dict[str, str]:
    """Layers that an adapter may be of: their names, with dots and with underscores for them."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    names = [name for name, each in model.named_modules() if isinstance(each, kinds)]
    spelt = {name.removeprefix(_WITHIN): name for name in names} | {name: name for name in names}
    flat = [name.replace(".", "_") for name in spelt]
    once = {other: name for other, name in zip(flat, spelt.values(), strict=True) if flat.count(other) == 1}
    return once | spelt


def _found(file: LoraFile, layer: str, names: Mapping[str, str], called: str) -> str:
    found = next((each for each in (layer, *_without(layer)) if each in names), None)
    if found is None:
        near = did_you_mean(layer, tuple(names))
        raise ExportError(f"{called} has no layer '{layer[:80]}', which {file.path} is for", hint=near or _BASE)
    return names[found]


def _without(layer: str) -> list[str]:
    return [layer.removeprefix(prefix) for prefix in (_WITHIN, _WITHIN.replace(".", "_")) if layer.startswith(prefix)]


def _weight(model: nn.Module, name: str) -> Tensor:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def _product(layer: LowRank) -> Tensor:
    """up @ down, of a convolution over its kernel."""
    return layer.up.flatten(1) @ layer.down.flatten(1)
