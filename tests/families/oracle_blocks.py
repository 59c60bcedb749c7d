"""The blocks of the conditional denoisers in float64 numpy, from the papers' descriptions: no torch, no shared code.

Which norm, MLP or attention a block has is read off its weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Weights = dict[str, Array]


def unpatchify(h: Array, channels: int, patch: int, grid: int) -> Array:
    """h [grid * grid, patch * patch * C] -> [C, H, W]: inside a token, row, then column, then channel."""
    image = np.zeros((channels, grid * patch, grid * patch))
    for i, j, a, b, c in np.ndindex(grid, grid, patch, patch, channels):
        image[c, i * patch + a, j * patch + b] = h[i * grid + j, (a * patch + b) * channels + c]
    return image


def block(w: Weights, name: str, config: Any, h: Array, c: Array, grid: int | None, prefix: int) -> Array:
    """One block on tokens h [tokens, D], whose first `prefix` are registers, under conditions c [D] or [tokens, D].

    `grid` is where the rotary embedding puts the others; None: there is none.
    """
    shift1, scale1, gate1, shift2, scale2, gate2 = np.split(linear(w, name + "adaLN_modulation.1", c), 6, axis=-1)
    a = norm(w, name + "norm1", h) * (1 + scale1) + shift1
    h = h + gate1 * _attention(w, name + "attn.", config, a, grid, prefix)
    a = norm(w, name + "norm2", h) * (1 + scale2) + shift2
    return np.asarray(h + gate2 * _mlp(w, name + "mlp.", a))


def _mlp(w: Weights, name: str, a: Array) -> Array:
    if name + "fc1.weight" in w:
        h = linear(w, name + "fc1", a)
        return linear(w, name + "fc2", h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))))
    gate, value = np.split(linear(w, name + "w12", a), 2, axis=-1)
    return linear(w, name + "w3", silu(gate) * value)


def _attention(w: Weights, name: str, config: Any, a: Array, grid: int | None, prefix: int) -> Array:
    q, k, v = np.split(linear(w, name + "qkv", a), 3, axis=-1)
    head, outputs = config.hidden_size // config.num_heads, []
    for part in (slice(i * head, (i + 1) * head) for i in range(config.num_heads)):
        qh, kh = q[:, part], k[:, part]
        if name + "q_norm.weight" in w:
            qh, kh = norm(w, name + "q_norm", qh), norm(w, name + "k_norm", kh)
        if grid is not None:
            qh, kh = rotate(qh, grid, prefix), rotate(kh, grid, prefix)
        vh = v[:, part]
        if name + "k_bias" in w:
            kh, vh = (np.concatenate([w[f"{name}{x}_bias"][0, len(outputs)], h]) for x, h in (("k", kh), ("v", vh)))
        scores = qh @ kh.T / np.sqrt(head)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        outputs.append(scores / scores.sum(axis=-1, keepdims=True) @ vh)
    return linear(w, name + "proj", np.concatenate(outputs, axis=-1))


def rotate(x: Array, grid: int, prefix: int) -> Array:
    """Rotary embedding of x [prefix + grid * grid, head]: pair p of a half turns by position * 1e4^(-2p / half)."""
    out, half = x.astype(np.float64).copy(), x.shape[1] // 2
    for token in range(prefix, len(x)):
        position = divmod(token - prefix, grid)  # row, column
        for pair in range(x.shape[1] // 2):
            axis, p = divmod(2 * pair, half)
            angle = position[axis] * 1e4 ** (-p / half)
            a, b = x[token, 2 * pair], x[token, 2 * pair + 1]
            out[token, 2 * pair] = a * np.cos(angle) - b * np.sin(angle)
            out[token, 2 * pair + 1] = b * np.cos(angle) + a * np.sin(angle)
    return out


def linear(w: Weights, name: str, x: Array) -> Array:
    return np.asarray(x @ w[name + ".weight"].T + w[name + ".bias"])


def norm(w: Weights, name: str, x: Array) -> Array:
    """RMS with a weight, LayerNorm with both or with neither; their epsilons are the released ones."""
    weight, bias = w.get(name + ".weight"), w.get(name + ".bias")
    if weight is not None and bias is None:
        return np.asarray(x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-6) * weight)
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + (1e-6 if weight is None else 1e-5))
    return x if weight is None or bias is None else np.asarray(x * weight + bias)


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))
