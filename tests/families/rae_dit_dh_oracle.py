"""The rae-dit-dh forward pass in float64 numpy, from the method's description."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.families.oracle_blocks import Array, Weights, block, linear, norm, silu
from tests.families.rae_dit_oracle import _embed, _time


def forward(w: Weights, config: Any, x: Array, t: Array, y: Array) -> Array:
    """x [N, C, H, W], t [N], y [N] -> out [N, C, H, W]; one image at a time."""
    return np.stack([_image(w, config, x[i], float(t[i]), int(y[i])) for i in range(len(x))])


def _image(w: Weights, config: Any, x: Array, t: float, y: int) -> Array:
    time, grid, depth = _time(w, t), config.input_size, config.depth[0]
    s = _trunk(w, config, x, silu(time + w["y_embedder.embedding_table.weight"][y]))
    s = silu(time + s)
    s = silu(linear(w, "s_projector", s) if "s_projector.weight" in w else s)  # AdaLN's SiLU
    h = _tokens(w, "x_embedder", x)
    prefix = config.register_len if config.register_conditioning else 0
    if prefix:
        h = np.concatenate([w["dec_register_tokens"][0] + w["dec_register_pos_embed"][0], h])
    for i in range(depth, depth + config.depth[1]):
        h = block(w, f"blocks.{i}.", config.head, h, s, grid, prefix)
    shift, scale = np.split(linear(w, "final_layer.adaLN_modulation.1", s[prefix:]), 2, axis=-1)
    out = linear(w, "final_layer.linear", norm(w, "final_layer.norm_final", h[prefix:]) * (1 + scale) + shift)
    return out.reshape(grid, grid, -1).transpose(2, 0, 1)


def _trunk(w: Weights, config: Any, x: Array, c: Array) -> Array:
    """Its output tokens, registers included: AdaLN's own SiLU comes on top of the one in `c`."""
    s, prefix, c = _tokens(w, "s_embedder", x), 0, silu(c)
    if config.use_pos_embed:
        s = s + w["pos_embed"][0]
    for i in range(config.depth[0]):
        if config.register_conditioning and i == config.register_start:
            prefix = config.register_len
            s = np.concatenate([w["enc_register_tokens"][0] + w["enc_register_pos_embed"][0], s])
        s = block(w, f"blocks.{i}.", config.trunk, s, c, config.input_size, prefix)
    return s


def _tokens(w: Weights, name: str, x: Array) -> Array:
    weights = {"x_embedder.proj." + key: w[f"{name}.proj.{key}"] for key in ("weight", "bias")}
    return np.stack([_embed(weights, x, i, j, 1) for i, j in np.ndindex(x.shape[1:])])
