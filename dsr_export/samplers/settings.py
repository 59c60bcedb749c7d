"""A scheduler's configuration as diffusers writes it, read strictly into a dataclass of its settings."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.samplers.known_settings import KNOWN_SETTINGS
from dsr_export.short_repr import short_repr

Settings = TypeVar("Settings")
MOST_TRAIN_STEPS = 100_000
LARGEST_INTEGER = 2**31 - 1
LARGEST = 1e30  # of a number; minus infinity stands for no bound
WHERE = "scheduler_config.json"
_HINT = f"correct {WHERE}"
_DEFAULTED = "_use_default_values"  # keys that nobody set: their class's own defaults hold


def read_settings(kind: type[Settings], config: Mapping[str, Any]) -> Settings:
    """The settings of `config`, whose field names and types are those of the dataclass `kind`.

    Raises ExportError for a setting that no scheduler has, or a value that is not of its type.
    """
    hints, defaulted = get_type_hints(kind), config.get(_DEFAULTED)
    values = {}
    for key, value in config.items():
        if key.startswith("_") or (isinstance(defaulted, list) and key in defaulted):
            continue
        if key in hints:
            values[key] = _typed(key, value, hints[key])
        elif key not in KNOWN_SETTINGS and value not in (None, False):
            raise _unknown(key, value, hints)
    return kind(**values)


def refuse(problems: list[tuple[bool, str]]) -> None:
    """Raises ExportError with the message of the first condition that holds."""
    for problem, message in problems:
        if problem:
            raise ExportError(f"{WHERE}: {message}", hint=_HINT)


def _unknown(key: str, value: Any, hints: Mapping[str, Any]) -> ExportError:
    near = did_you_mean(key[:80], hints)
    hint = "it would change the pictures, and it is not known here"
    return ExportError(f"{WHERE} sets {key[:80]} to {short_repr(value)}", hint=f"{near} {hint}" if near else hint)


def _typed(key: str, value: Any, hint: Any) -> Any:
    if value is None and hint is bool:  # as diffusers reads it; older versions wrote it
        return False
    for each in _choices(hint):
        if each is float and type(value) in (int, float) and (abs(value) <= LARGEST or value == -math.inf):
            return float(value)
        if each is int and type(value) is int and abs(value) <= LARGEST_INTEGER:
            return value
        if each in (bool, type(None)) and type(value) is each:
            return value
        if get_origin(each) is Literal and isinstance(value, str) and value in get_args(each):
            return value
        if get_origin(each) is tuple and _is_row(value):
            return tuple(float(number) for number in value)
    wanted = ", ".join(_named(each) for each in _choices(hint))
    raise ExportError(f"{WHERE}: {key} is {short_repr(value)}, but must be {wanted}", hint=_HINT)


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_row(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and 0 < len(value) <= MOST_TRAIN_STEPS
        and all(type(each) in (int, float) and 0 <= each <= 1 for each in value)
    )


def _named(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(repr(word) for word in get_args(hint))
    if get_origin(hint) is tuple:
        return "a list of numbers from 0 to 1"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "null")
