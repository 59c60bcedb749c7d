"""`[[resources]]` of a matrix: what the machine of a cell must have free, for executors that choose machines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsr_export.cluster.request import Resources
from dsr_export.errors import ExportError

WHEN = "when"
KNOWN = ("cpus", "gpus", "memory", "accelerator", "custom")
LEAST = 0.001  # what Ray tells apart
_RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory")
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_MEMORY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s?(KB|MB|GB|TB)", re.ASCII)


def read_resources(path: Path, tables: Any) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Of each table: which cells it is for, and the fields of `Resources` that it gives. ExportError for any other."""
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise ExportError(f"{path}: 'resources' is no list of tables", hint="write [[resources]] on a line of its own")
    found: list[tuple[Mapping[str, Any], dict[str, Any]]] = []
    for each in tables:
        when = each.get(WHEN, {})
        if not isinstance(when, dict):
            raise ExportError(f"{path}: '{WHEN}' is no table", hint='when = { target = "rtx" }')
        found.append((when, {name: _value(path, name, value) for name, value in each.items() if name != WHEN}))
    return found


def needs_of(values: Mapping[str, Any], tables: Sequence[tuple[Mapping[str, Any], dict[str, Any]]]) -> Resources:
    """What a cell with these options needs: later tables win."""
    made: dict[str, Any] = {}
    for when, more in tables:
        if all(values.get(name) == value for name, value in when.items()):
            made |= more
    return Resources(**made)


def _value(path: Path, name: str, value: Any) -> Any:
    if name not in KNOWN:
        raise ExportError(f"{path}: 'resources' has no '{str(name)[:40]}'", hint=f"known are {', '.join(KNOWN)}")
    if name == "memory":
        return _bytes(path, value)
    if name == "accelerator":
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", value):
            raise ExportError(f"{path}: 'accelerator' is no name", hint='for example "L4" or "H100"')
        return value
    if name == "custom":
        if not isinstance(value, dict):
            raise ExportError(f"{path}: 'custom' is no table", hint="custom = { jetson = 1 }")
        return {_custom(path, str(key)): _count(path, str(key), each) for key, each in value.items()}
    return _count(path, name, value)


def _custom(path: Path, name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,60}", name) or name in _RAYS_OWN:
        raise ExportError(f"{path}: {name[:40]!r} is no name of a custom resource", hint="custom = { jetson = 1 }")
    return name


def _count(path: Path, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
        raise ExportError(f"{path}: '{name[:40]}' of resources is no number from 0", hint="cpus = 4")
    if (value > 1 and value != int(value)) or 0 < value < LEAST:
        raise ExportError(f"{path}: '{name[:40]}' is {value}", hint=f"give whole ones, or {LEAST} to 1")
    return value


def _bytes(path: Path, value: Any) -> int:
    match = _MEMORY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ExportError(f"{path}: 'memory' is no size", hint='memory = "32GB"')
    return round(float(match[1]) * _UNITS[match[2]])
