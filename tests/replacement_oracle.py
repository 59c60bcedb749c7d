"""Recursive replacement and test-time registers written out in numpy from the definitions, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Gate = tuple[Array, Array, Array]


class TooClose(Exception):
    """A comparison that float32 rounding may decide either way: not a fair case for an exact test."""


def replace(
    x: Array,
    registers: Array,
    *,
    rule: str,
    threshold: float,
    rounds: int,
    choice: str,
    exclude: tuple[int, ...] = (),
    gate: Gate | None = None,
) -> Array:
    """x [B, N, D] -> [B, N, D] float32; raises TooClose."""
    with np.errstate(all="ignore"):
        out = x.astype(np.float32).copy()
        for image in out:
            counted = [i for i in range(len(image)) if i not in exclude]
            for _ in range(rounds if counted else 0):
                _one_round(image, counted, registers.astype(np.float64), rule, threshold, choice, gate)
    return out


def _one_round(
    image: Array, counted: list[int], registers: Array, rule: str, threshold: float, choice: str, gate: Gate | None
) -> None:
    norms = np.array([np.sqrt(np.sum(np.square(image[i]), dtype=np.float32)) for i in counted], np.float64)
    limit = _limit(norms, rule, threshold)
    for i, norm in zip(counted, norms, strict=True):
        broken = not np.isfinite(norm)
        exact = rule != "sigma" and norm == limit
        if not broken and np.isfinite(limit) and abs(norm - limit) <= 1e-5 * limit and not exact:
            raise TooClose
        if broken or norm > limit:
            image[i] = _becomes(image[i].astype(np.float64), norm, limit, registers, choice, gate)


def _limit(norms: Array, rule: str, threshold: float) -> float:
    finite = norms[np.isfinite(norms)]
    if rule == "absolute":
        return float(np.float32(threshold))
    if rule == "median":
        ordered = sorted(float(n) if np.isfinite(n) else np.inf for n in norms)
        return float(np.float32(np.float32(threshold) * np.float32(ordered[(len(ordered) - 1) // 2])))
    if not len(finite):
        return 0.0
    return float(finite.mean() + threshold * finite.std())


def _becomes(token: Array, norm: float, limit: float, registers: Array, choice: str, gate: Gate | None) -> Array:
    broken = not np.isfinite(norm)
    if choice == "mask" or (choice == "clip" and broken):
        return np.zeros_like(token)
    if choice == "clip":
        return token * (limit / norm)
    if broken:
        return np.asarray(registers[0])
    if choice == "nearest":
        return np.asarray(registers[_nearest(token, registers)])
    assert gate is not None
    logits = token @ gate[0]
    weights = np.exp(logits - logits.max())
    strength = 1 / (1 + np.exp(-(token @ gate[1][:, 0] + gate[2][0])))
    return np.asarray(token + strength * (weights / weights.sum() @ registers - token))


def _nearest(token: Array, registers: Array) -> int:
    best, best_similarity = 0, -np.inf
    for j, row in enumerate(registers):
        length = np.linalg.norm(row)
        similarity = -np.inf if length == 0 else float(token @ row / (length * np.linalg.norm(token)))
        parallel = np.array_equal(row * np.linalg.norm(registers[best]), registers[best] * length)
        if abs(similarity - best_similarity) < 1e-5 and not parallel:
            raise TooClose
        if similarity > best_similarity + 1e-9:
            best, best_similarity = j, similarity
    return best


def shift_neurons(a: Array, neurons: list[int], registers: int, scale: list[float], normal_values: str) -> Array:
    """a [B, N + R, H] -> the same shape, float32."""
    out = a.astype(np.float32).copy()
    tokens = a.shape[1]
    for image, source in zip(out, a, strict=True):
        listed = source[:, neurons]
        signed = listed.max() if abs(listed.max()) > abs(listed.min()) else listed.min()
        for j in set(neurons):
            normal = source[1 : tokens - registers, j].astype(np.float64)
            for i, value in enumerate(normal, start=1):
                image[i, j] = _normal(value, normal, normal_values)
            for r in range(registers):
                image[tokens - registers + r, j] = signed * scale[r]
    return out


def _normal(value: float, rows: Array, mode: str) -> float:
    mean = float(rows.mean())
    if mode == "only_outliers":
        return mean if len(rows) > 1 and value > mean + rows.std(ddof=1) else value
    return {"zero": 0.0, "mean": mean, "same": value}[mode]
