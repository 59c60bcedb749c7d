"""The rae-dit forward pass in float64 numpy, from the method's description: no torch, no shared code."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.families.oracle_blocks import Array, Weights, block, linear, norm, silu, unpatchify


def forward(w: Weights, config: Any, x: Array, t: Array, y: Array) -> Array:
    """x [N, C, H, W], t [N], y [N] -> out [N, C, H, W]; one image at a time."""
    return np.stack([_image(w, config, x[i], float(t[i]), int(y[i])) for i in range(len(x))])


def _image(w: Weights, config: Any, x: Array, t: float, y: int) -> Array:
    patch, grid = config.patch_size, config.input_size // config.patch_size
    h = np.stack([_embed(w, x, i * patch, j * patch, patch) for i in range(grid) for j in range(grid)])
    h = h + w["pos_embed"][0]
    c = silu(_time(w, t) + w["y_embedder.embedding_table.weight"][y])
    prefix = 0
    for i in range(config.depth):
        if config.register_conditioning and i == config.register_start:
            prefix = config.register_len
            h = np.concatenate([w["register_tokens"][0] + w["register_pos_embed"][0], h])
        h = block(w, f"blocks.{i}.", config, h, c, grid if config.use_rope else None, prefix)
    shift, scale = np.split(linear(w, "final_layer.adaLN_modulation.1", c), 2)
    h = (h[prefix:] if config.final_no_ln else norm(w, "final_layer.norm_final", h[prefix:])) * (1 + scale) + shift
    return unpatchify(linear(w, "final_layer.linear", h), config.in_channels, patch, grid)


def _embed(w: Weights, x: Array, top: int, left: int, patch: int) -> Array:
    window = x[:, top : top + patch, left : left + patch]
    return np.asarray(np.einsum("dcab,cab->d", w["x_embedder.proj.weight"], window) + w["x_embedder.proj.bias"])


def _time(w: Weights, t: float) -> Array:
    angle = 2 * np.pi * t * w["t_embedder.W"]
    hidden = linear(w, "t_embedder.mlp.0", np.concatenate([np.sin(angle), np.cos(angle)]))
    return linear(w, "t_embedder.mlp.2", silu(hidden))
