"""JSON values side by side: what differs, by its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ABSENT = None
"""Stands for a field that one side lacks; JSON has no better word."""
_MISSING = object()


def differing(a: Any, b: Any) -> dict[str, dict[str, Any]]:
    """Path of each difference (`model.config.depth`, `inputs.0.shape.1`) -> its values, `a` and `b`.

    What only one side has counts as one difference, however much is in it.
    """
    found: dict[str, dict[str, Any]] = {}
    _collect(a, b, "", found)
    return found


def _collect(a: Any, b: Any, path: str, found: dict[str, dict[str, Any]]) -> None:
    left, right = _items(a), _items(b)
    if left is None or right is None:
        if a is _MISSING or b is _MISSING or left is not right or a != b:
            found[path] = {"a": ABSENT if a is _MISSING else a, "b": ABSENT if b is _MISSING else b}
        return
    for key in dict.fromkeys([*left, *right]):
        _collect(left.get(key, _MISSING), right.get(key, _MISSING), f"{path}.{key}" if path else key, found)


def _items(value: Any) -> dict[str, Any] | None:
    """The parts of an object or a list; None for anything else."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, list | tuple):
        return {str(index): item for index, item in enumerate(value)}
    return None
