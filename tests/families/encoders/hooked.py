"""Test-time registers as hooks on a plain `transformers` model make them, in place: an oracle for every family.

Written from the method sheet (arXiv 2506.08010): zero rows are appended to what the embeddings make, rotary tables get
identity rows, and what each listed layer's MLP hands to its last linear layer is edited, image by image. Returns what
the chosen layers pass on, before any final norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def layer_tokens(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    layers: nn.ModuleList,
    embeddings: nn.Module,
    rotary: nn.Module | None = None,
    neurons: Mapping[int, Sequence[int]] | None = None,
    registers: int = 1,
    scale: Sequence[float] = (1.0,),
    mode: str = "zero",
    appended: Tensor | None = None,
) -> list[Tensor]:
    """Of each layer its tokens [B, rows, C], appended ones cut off; these are zeros, or `appended` [R, C]."""
    rows = len(appended) if appended is not None else registers if neurons else 0
    made: list[Tensor] = []
    hooks = [embeddings.register_forward_hook(lambda _, __, out: _with_rows(out, rows, appended))]
    if rotary is not None:
        hooks.append(rotary.register_forward_hook(lambda _, __, out: _with_identity(out, rows)))
    for layer in layers:
        hooks.append(layer.register_forward_hook(lambda _, __, out: made.append(out[0] if _is_tuple(out) else out)))
    for number, table in (neurons or {}).items():
        target = [part for part in layers[number].mlp.modules() if isinstance(part, nn.Linear)][-1]
        hooks.append(target.register_forward_pre_hook(_editing(sorted(set(table)), registers, scale, mode)))
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [tokens[:, : tokens.shape[1] - rows] for tokens in made]


def _is_tuple(out: Any) -> bool:
    return isinstance(out, tuple)


def _with_rows(out: Any, rows: int, appended: Tensor | None) -> Any:
    tokens = out[0] if _is_tuple(out) else out
    added = torch.zeros(rows, tokens.shape[2]) if appended is None else appended
    longer = torch.cat([tokens, added.expand(len(tokens), -1, -1)], dim=1)
    return (longer, *out[1:]) if _is_tuple(out) else longer


def _with_identity(out: tuple[Tensor, Tensor], rows: int) -> tuple[Tensor, Tensor]:
    cos, sin = out
    return torch.cat([cos, torch.ones(rows, cos.shape[1])]), torch.cat([sin, torch.zeros(rows, sin.shape[1])])


def _editing(table: list[int], registers: int, scale: Sequence[float], mode: str) -> Any:
    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        for image in args[0]:  # [rows, H], in place
            listed = image[:, table]
            high, low = listed.max(), listed.min()
            signed = (high if high.abs() > low.abs() else low).clone()
            for neuron in table:
                ordinary = image[1 : len(image) - registers, neuron]
                if mode == "zero":
                    ordinary.zero_()
                elif mode == "mean":
                    ordinary.fill_(ordinary.mean())
                for k in range(registers):
                    image[len(image) - registers + k, neuron] = signed * scale[k]

    return hook
