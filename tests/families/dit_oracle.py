"""The forward passes of DiT and JiT in float64 numpy, from the papers' descriptions: no torch, no shared code."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.families.rae_dit_oracle import rotate, unpatchify

Array = npt.NDArray[Any]
Weights = dict[str, Array]


def forward(w: Weights, config: Any, x: Array, t: Array, y: Array) -> Array:
    """x [N, C, H, W], t [N], y [N] -> out [N, C or 2 C, H, W]; one image at a time. JiT is told by its weights."""
    return np.stack([_image(w, config, x[i], float(t[i]), int(y[i])) for i in range(len(x))])


def _image(w: Weights, config: Any, x: Array, t: float, y: int) -> Array:
    patch, grid, prefix = config.patch_size, config.input_size // config.patch_size, 0
    label = w["y_embedder.embedding_table.weight"][y]
    c = _silu(_time(w, t) + label)
    corners = [(i * patch, j * patch) for i in range(grid) for j in range(grid)]
    h = np.stack([_embed(w, x[:, top : top + patch, left : left + patch]) for top, left in corners])
    h = h + w["pos_embed"][0]
    for i in range(config.depth):
        if config.register_conditioning and i == config.register_start:
            prefix = config.register_len
            h = np.concatenate([_registers(w, label), h])
        h = _block(w, f"blocks.{i}.", config, h, c, grid, prefix)
    shift, scale = np.split(_linear(w, "final_layer.adaLN_modulation.1", c), 2)
    h = _norm(w, "final_layer.norm_final", h[prefix:]) * (1 + scale) + shift
    out = _linear(w, "final_layer.linear", h)
    return unpatchify(out, out.shape[1] // patch**2, patch, grid)


def _embed(w: Weights, window: Array) -> Array:
    if "x_embedder.proj.weight" in w:
        return np.asarray(np.einsum("dcab,cab->d", w["x_embedder.proj.weight"], window) + w["x_embedder.proj.bias"])
    narrow = np.einsum("dcab,cab->d", w["x_embedder.proj1.weight"], window)
    return np.asarray(w["x_embedder.proj2.weight"][:, :, 0, 0] @ narrow + w["x_embedder.proj2.bias"])


def _time(w: Weights, t: float) -> Array:
    angle = t * 1e4 ** -(np.arange(128) / 128)
    hidden = _linear(w, "t_embedder.mlp.0", np.concatenate([np.cos(angle), np.sin(angle)]))
    return _linear(w, "t_embedder.mlp.2", _silu(hidden))


def _registers(w: Weights, label: Array) -> Array:
    if "in_context_posemb" in w:
        return np.asarray(label + w["in_context_posemb"][0])
    return np.asarray(w["register_tokens"][0] + w["register_pos_embed"][0])


def _block(w: Weights, name: str, config: Any, h: Array, c: Array, grid: int, prefix: int) -> Array:
    shift1, scale1, gate1, shift2, scale2, gate2 = np.split(_linear(w, name + "adaLN_modulation.1", c), 6)
    a = _norm(w, name + "norm1", h) * (1 + scale1) + shift1
    h = h + gate1 * _attention(w, name + "attn.", config, a, grid, prefix)
    a = _norm(w, name + "norm2", h) * (1 + scale2) + shift2
    return np.asarray(h + gate2 * _mlp(w, name + "mlp.", a))


def _mlp(w: Weights, name: str, a: Array) -> Array:
    if name + "fc1.weight" in w:
        u = _linear(w, name + "fc1", a)
        gelu = 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))
        return _linear(w, name + "fc2", gelu)
    gate, value = np.split(_linear(w, name + "w12", a), 2, axis=-1)
    return _linear(w, name + "w3", _silu(gate) * value)


def _attention(w: Weights, name: str, config: Any, a: Array, grid: int, prefix: int) -> Array:
    q, k, v = np.split(_linear(w, name + "qkv", a), 3, axis=-1)
    head, outputs = config.hidden_size // config.num_heads, []
    for part in (slice(i * head, (i + 1) * head) for i in range(config.num_heads)):
        qh, kh = q[:, part], k[:, part]
        if name + "q_norm.weight" in w:
            qh = rotate(_norm(w, name + "q_norm", qh), grid, prefix)
            kh = rotate(_norm(w, name + "k_norm", kh), grid, prefix)
        scores = qh @ kh.T / np.sqrt(head)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        outputs.append(scores / scores.sum(axis=-1, keepdims=True) @ v[:, part])
    return _linear(w, name + "proj", np.concatenate(outputs, axis=-1))


def _norm(w: Weights, name: str, x: Array) -> Array:
    """RMS norm where there is a weight, else LayerNorm without one."""
    if name + ".weight" in w:
        return np.asarray(x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-6) * w[name + ".weight"])
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-6))


def _linear(w: Weights, name: str, x: Array) -> Array:
    return np.asarray(x @ w[name + ".weight"].T + w[name + ".bias"])


def _silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))
