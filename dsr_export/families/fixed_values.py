"""What a graph keeps of a call as constants: told by digests, so that whoever calls it otherwise is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

DIGITS = 6
"""Decimals that count: pipelines compute ids and rotations in other types than we do."""


def fixed_digest(value: Any) -> str:
    """Of a number, a tensor, or nested lists and mappings of them; types of numbers do not count, shapes do."""
    made = hashlib.sha256()
    _add(made, value)
    return made.hexdigest()[:16]


def fixed_digests(values: Mapping[str, Any]) -> dict[str, str]:
    """By name."""
    return {name: fixed_digest(value) for name, value in sorted(values.items())}


def _add(made: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key in sorted(value):
            made.update(f"{key}:".encode())
            _add(made, value[key])
    elif isinstance(value, list | tuple):
        made.update(f"[{len(value)}".encode())
        for each in value:
            _add(made, each)
    elif value is None or isinstance(value, str):
        made.update(repr(value).encode())
    else:
        array = _array(value)
        made.update(str(array.shape).encode() + (np.round(array, DIGITS) + 0.0).tobytes())


def _array(value: Any) -> Any:
    """FP64, real and imaginary part apart: tensors of torch are read without importing it."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.numpy() if str(value.dtype) != "torch.bfloat16" else value.float().numpy()
    array = np.asarray(value)
    if np.iscomplexobj(array):
        array = np.stack([array.real, array.imag], -1)
    return array.astype(np.float64)
