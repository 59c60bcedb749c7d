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


@dataclass(frozen=True)
class Merge:
    """What one file adds to the layers of a model, by their names in it."""

    file: LoraFile
    adapter: Adapter
    layers: Mapping[str, LowRank]

    def into(self, model: nn.Module) -> None:
        """Adds it, in place and in float32."""
        with torch.no_grad():
            for name, layer in self.layers.items():
                weight = _weight(model, name)
                weight += (self.file.scale * layer.gain) * _product(layer).reshape(weight.shape)

    @property
    def record(self) -> dict[str, Any]:
        """For the manifest: which file, how strong, how many layers; and what of it is for other parts."""
        others = {part: len(layers) for part, layers in self.adapter.layers.items() if part != "transformer"}
        return {
            "file": self.file.path.name,
            "sha256": file_sha256(self.file.path),
            "scale": self.file.scale,
            "layers": len(self.layers),
            "ranks": sorted({layer.down.shape[0] for layer in self.layers.values()}),
            **({"not_merged": others} if others else {}),
        }


def plan(model: nn.Module, files: Sequence[LoraFile], class_name: str) -> list[Merge]:
    """How `files` are merged into `model`, whose parameters may have no memory yet.

    Raises ExportError for what is no LoRA, and for one of another base model.
    """
    return [_planned(model, file, class_name) for file in files]


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


def _planned(model: nn.Module, file: LoraFile, class_name: str) -> Merge:
    adapter = read_adapter(file.path)
    own = adapter.layers.get("transformer", {})
    if not own:
        parts = ", ".join(adapter.layers)
        raise ExportError(f"{file.path} holds nothing for the transformer, only {parts}", hint="merge it in diffusers")
    names = _modules(model)
    layers = {_found(file, layer, names, class_name): each for layer, each in own.items()}
    for name, each in layers.items():
        weight = _weight(model, name)
        if tuple(weight.shape) != (each.up.shape[0], *each.down.shape[1:]):
            adds = [each.up.shape[0], *each.down.shape[1:]]
            message = f"{file.path} adds {adds} to '{name}' of {class_name}, which is {list(weight.shape)}"
            raise ExportError(message, hint=_BASE)
    return Merge(file, adapter, layers)


def _modules(model: nn.Module) -> dict[str, str]:
    """Layers that an adapter may be of: their names, with dots and with underscores for them."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    names = [name for name, each in model.named_modules() if isinstance(each, kinds)]
    flat = [name.replace(".", "_") for name in names]
    spelt = {other: name for other, name in zip(flat, names, strict=True) if flat.count(other) == 1}
    return spelt | {name: name for name in names}


def _found(file: LoraFile, layer: str, names: Mapping[str, str], class_name: str) -> str:
    if layer not in names:
        near = did_you_mean(layer, tuple(names))
        raise ExportError(f"{class_name} has no layer '{layer[:80]}', which {file.path} is for", hint=near or _BASE)
    return names[layer]


def _weight(model: nn.Module, name: str) -> Tensor:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def _product(layer: LowRank) -> Tensor:
    """up @ down, of a convolution over its kernel."""
    return layer.up.flatten(1) @ layer.down.flatten(1)
