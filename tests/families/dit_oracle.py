"""The forward passes of DiT and JiT in float64 numpy, from the papers' descriptions: no torch, no shared code."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.families.oracle_blocks import Array, Weights, block, linear, norm, silu, unpatchify


def forward(w: Weights, config: Any, x: Array, t: Array, y: Array) -> Array:
    """x [N, C, H, W], t [N], y [N] -> out [N, C or 2 C, H, W]; one image at a time. JiT is told by its weights."""
    return np.stack([_image(w, config, x[i], float(t[i]), int(y[i])) for i in range(len(x))])


def _image(w: Weights, config: Any, x: Array, t: float, y: int) -> Array:
    patch, grid, prefix = config.patch_size, config.input_size // config.patch_size, 0
    rotary = grid if "x_embedder.proj1.weight" in w else None  # JiT
    label = w["y_embedder.embedding_table.weight"][y]
    c = silu(_time(w, t) + label)
    corners = [(i * patch, j * patch) for i in range(grid) for j in range(grid)]
    h = np.stack([_embed(w, x[:, top : top + patch, left : left + patch]) for top, left in corners])
    h = h + w["pos_embed"][0]
    for i in range(config.depth):
        if config.register_conditioning and i == config.register_start:
            prefix = config.register_len
            h = np.concatenate([_registers(w, label), h])
        h = block(w, f"blocks.{i}.", config, h, c, rotary, prefix)
    shift, scale = np.split(linear(w, "final_layer.adaLN_modulation.1", c), 2)
    h = norm(w, "final_layer.norm_final", h[prefix:]) * (1 + scale) + shift
    out = linear(w, "final_layer.linear", h)
    return unpatchify(out, out.shape[1] // patch**2, patch, grid)


def _embed(w: Weights, window: Array) -> Array:
    if "x_embedder.proj.weight" in w:
        return np.asarray(np.einsum("dcab,cab->d", w["x_embedder.proj.weight"], window) + w["x_embedder.proj.bias"])
    narrow = np.einsum("dcab,cab->d", w["x_embedder.proj1.weight"], window)
    return np.asarray(w["x_embedder.proj2.weight"][:, :, 0, 0] @ narrow + w["x_embedder.proj2.bias"])


def _time(w: Weights, t: float) -> Array:
    angle = t * 1e4 ** -(np.arange(128) / 128)
    hidden = linear(w, "t_embedder.mlp.0", np.concatenate([np.cos(angle), np.sin(angle)]))
    return linear(w, "t_embedder.mlp.2", silu(hidden))


def _registers(w: Weights, label: Array) -> Array:
    if "in_context_posemb" in w:
        return np.asarray(label + w["in_context_posemb"][0])
    return np.asarray(w["register_tokens"][0] + w["register_pos_embed"][0])
