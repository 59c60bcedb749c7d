"""Test-time registers as the method's hook edits a plain `transformers` model: an oracle independent of `registers`.

Written from the method sheet (arXiv 2506.08010): zero rows are appended behind the embeddings, and the activation of
each listed MLP is edited in place. Works on anything with `embeddings`, layers with an `mlp`, and one norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def tokens_with_hooks(
    model: Any,
    image: Tensor,
    *,
    neurons: Mapping[int, Sequence[int]],
    registers: int,
    scale: float | Sequence[float],
    mode: str,
    norm: nn.LayerNorm,
    layers: nn.ModuleList,
) -> Tensor:
    """The last hidden state [B, tokens, C] without the appended rows, the final norm's affine switched off."""
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)

    def append(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
        return torch.cat([embedded, torch.zeros(len(embedded), registers, embedded.shape[2])], dim=1)

    def edit(table: Sequence[int]) -> Any:
        return lambda _, __, a: _edited(a, list(dict.fromkeys(table)), registers, scale, mode)

    hooks = [model.embeddings.register_forward_hook(append)]
    hooks += [_activation(layers[layer]).register_forward_hook(edit(table)) for layer, table in neurons.items()]
    try:
        with torch.no_grad():
            return model(image).last_hidden_state[:, : -registers or None]  # type: ignore[no-any-return]
    finally:
        for hook in hooks:
            hook.remove()


def _activation(layer: Any) -> Any:
    """What transformers 5 calls `activation_fn` is DINOv2's `activation` in 4."""
    return getattr(layer.mlp, "activation_fn", None) or layer.mlp.activation


def _edited(a: Tensor, table: list[int], registers: int, scale: float | Sequence[float], mode: str) -> Tensor:
    factors = [scale] * registers if isinstance(scale, float) else list(scale)
    for image in a:  # one image at a time, one neuron at a time: [tokens, H], in place
        values = image[:, table]
        high, low = float(values.max()), float(values.min())
        signed = high if abs(high) > abs(low) else low
        for neuron in table:
            rows = image[1:-registers, neuron].clone()
            for k, factor in enumerate(factors):
                image[len(image) - registers + k, neuron] = signed * factor
            if mode == "zero":
                rows[:] = 0
            elif mode == "mean":
                rows[:] = rows.mean()
            elif mode == "only_outliers":
                rows[rows > rows.mean() + rows.std()] = rows.mean()
            image[1:-registers, neuron] = rows
    return a
