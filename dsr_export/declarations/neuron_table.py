"""Register-neuron tables: JSON `{"layer": [indices]}`, as register-neuron discovery writes them (arXiv 2506.08010)."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError
from graphs.foreign.small_files import LARGEST_JSON, parse_small_json, read_small

MOST_DIGITS = 9  # of a layer or an index
_HINT = 'a table looks like {"3": [2625, 1756], "4": [16]}: layer -> indices into the MLP\'s hidden width'


def read_neurons(path: Path) -> Mapping[int, tuple[int, ...]]:
    """Layer -> sorted distinct indices; layers without neurons are left out.

    An index listed twice counts once: discovery may repeat one, and the edit is the same.
    Raises ExportError for a file that is missing, no JSON, of another form, or without any neuron.
    """
    content = _read_json(path)
    if not isinstance(content, Mapping):
        raise ExportError(f"{path} holds a {type(content).__name__}, not a table of neurons", hint=_HINT)
    table = {_layer(path, key): _indices(path, key, value) for key, value in content.items()}
    if len(table) != len(content):
        raise ExportError(f"{path} lists a layer twice", hint="merge its indices into one list")
    kept = {layer: table[layer] for layer in sorted(table) if table[layer]}
    if not kept:
        raise ExportError(f"{path} lists no neuron", hint=_HINT)
    return kept


def _read_json(path: Path) -> Any:
    try:
        data = read_small(path, max_bytes=LARGEST_JSON, hint=_HINT)
        return parse_small_json(data, pairs=_distinct)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ExportError(f"neuron table {path}: {reason}", hint="the path is relative to the TOML file") from error
    except ValueError as error:
        raise ExportError(f"neuron table {path} is no JSON: {error}", hint=_HINT) from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON readers silently keep the last of two equal keys; a layer's neurons would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is listed twice")
    return found


def _layer(path: Path, key: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) <= MOST_DIGITS):
        raise ExportError(f"{path}: {reprlib.repr(key)} is no layer", hint="layers count from 0; " + _HINT)
    return int(key)


def _indices(path: Path, key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ExportError(f"{path}: layer {key} holds {reprlib.repr(value)}, not a list", hint=_HINT)
    for index in value:
        if type(index) is not int or not 0 <= index < 10**MOST_DIGITS:
            raise ExportError(f"{path}: layer {key} lists {reprlib.repr(index)}, not a neuron index from 0", hint=_HINT)
    return tuple(sorted(set(value)))
