"""The calibration table: what was measured and chosen, as JSON that can be read, compared, merged and used again.

It names the model it belongs to by the sha256 of its graph, and carries a digest of itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.activation_schemes import Choice
from graphs.digests import bytes_digest
from graphs.errors import ExportError
from graphs.foreign.small_files import parse_small_json, read_small
from graphs.quantize.formats import FLOATS, FORMATS, INT8
from graphs.quantize.quantizers import Activation

SCHEMA_VERSION = 1
LARGEST_FILE = 64 << 20
_KEYS = {"schema_version", "model_sha256", "method", "data", "activations", "gemms", "digest"}
_DIGITS = 64  # of a sha256
_WIDEST = 1 << 24
_FORMATS = {form.name: form for form in (*FORMATS.values(), FLOATS)}
_HINT = "give --calibration-table the calibration.json of a bundle of this model, quantised alike"


@dataclass(frozen=True)
class Table:
    """JSON values. `activations` maps a tensor to its scales, factors and statistics by role; `gemms` a GEMM to what
    became of it."""

    model_sha256: str
    method: str
    data: Mapping[str, Any]
    activations: Mapping[str, Mapping[str, Any]]
    gemms: Mapping[str, Mapping[str, Any]]

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal tables have equal bytes."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "model_sha256": self.model_sha256,
            "method": self.method,
            "data": dict(self.data),
            "activations": {name: dict(entry) for name, entry in self.activations.items()},
            "gemms": {name: dict(entry) for name, entry in self.gemms.items()},
        }
        return _canonical({**content, "digest": bytes_digest(_canonical(content))})

    @property
    def ranks(self) -> tuple[int | None, ...]:
        """That of NVFP4's branches as it was asked for, of each run that is in the table; None for the default."""
        return tuple(run.get("rank") for run in self.runs)

    @property
    def runs(self) -> list[Mapping[str, Any]]:
        """What each run that is in the table was measured on."""
        merged = self.data.get("merged", [self.data])
        runs = merged if isinstance(merged, list) else []
        return [run if isinstance(run, Mapping) else {} for run in runs] or [{}]

    def choices(self) -> dict[str, tuple[Choice, ...]]:
        """Activation -> how it is quantised, in each format of the precision."""
        return {name: choices_from(name, entry) for name, entry in self.activations.items()}


def read_table(path: Path, *, model_sha256: str) -> Table:
    """Reads a table for the model of that hash.

    Raises:
        ExportError: missing, no table, altered, or made for another model: both hashes are named.
    """
    try:
        value = parse_small_json(read_small(path, max_bytes=LARGEST_FILE, hint=_HINT))
        right = _has_form(value)
        content = {key: each for key, each in value.items() if key != "digest"} if right else {}
        digest = bytes_digest(_canonical(content))  # ValueError for NaN, which no table holds
    except OSError as error:
        raise ExportError(f"{path} can't be read: {error.strerror}", hint=_HINT) from error
    except ValueError as error:
        raise ExportError(f"{path} is no JSON: {str(error)[:200]}", hint=_HINT) from error
    if not right:
        raise ExportError(f"{path} is no calibration table of schema version {SCHEMA_VERSION}", hint=_HINT)
    if digest != value["digest"]:
        said = value["digest"][:_DIGITS]
        raise ExportError(f"{path} was altered: its digest is {said}, its content has {digest}", hint=_HINT)
    if value["model_sha256"] != model_sha256:
        raise ExportError(
            f"{path} was measured on the model {value['model_sha256'][:_DIGITS]}, and this one is {model_sha256}",
            hint="calibrate this model, or name the table of its own bundle",
        )
    return Table(*(value[key] for key in ("model_sha256", "method", "data", "activations", "gemms")))


def _has_form(value: Any) -> bool:
    """Whether it is a table of this schema, down to the entries, whose content is looked at where it is used."""
    if not isinstance(value, dict) or set(value) != _KEYS or value["schema_version"] != SCHEMA_VERSION:
        return False
    texts = all(isinstance(value[key], str) for key in ("model_sha256", "method", "digest"))
    tables = all(isinstance(value[key], dict) for key in ("data", "activations", "gemms"))
    if not (texts and tables):
        return False
    return all(isinstance(entry, dict) for key in ("activations", "gemms") for entry in value[key].values())


def merged(tables: Sequence[Table]) -> Table:
    """One table of several runs on the same model: largest ranges, pooled statistics.

    Where two runs chose different factors, the one that saw more tokens is taken.

    Raises:
        ExportError: tables of different models, methods, tensors or formats.
    """
    first = tables[0]
    if len(tables) == 1:
        return first
    for other in tables[1:]:
        if (other.model_sha256, other.method, set(other.activations)) != (
            first.model_sha256,
            first.method,
            set(first.activations),
        ):
            raise ExportError("calibration tables of different models or methods can't be merged", hint=_HINT)
    try:
        activations = {name: _pooled([table.activations[name] for table in tables]) for name in first.activations}
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise ExportError(f"a calibration table's statistics are incomplete: {error}", hint=_HINT) from error
    data = {"merged": [dict(table.data) for table in tables]}
    return Table(first.model_sha256, first.method, data, activations, first.gemms)


def activation_entry(choice: Choice, *finer: Choice, **known: Any) -> dict[str, Any]:
    """How a choice is written down, with those in `finer` formats; `known` are figures that go with it."""
    more = {"finer": [_entry(each) for each in finer]} if finer else {}
    return {**_entry(choice), **more, **known}


def _entry(choice: Choice) -> dict[str, Any]:
    activation = choice.activation
    rows = None if activation.row_factors is None else [float(value) for value in activation.row_factors]
    form = {} if activation.format == INT8 else {"format": activation.format.name}
    return {
        **form,
        "step": float(activation.step),
        "rows": activation.rows,
        "row_factors": rows,
        "channel_factors": [float(value) for value in choice.factors] if choice.smooths else None,
        "width": len(choice.factors),
        "snr_db": choice.snr_db,
    }


def choices_from(name: str, entry: Mapping[str, Any]) -> tuple[Choice, ...]:
    """Of all formats, with one set of channel factors. Raises as `choice_from`."""
    finer = entry.get("finer", [])
    if not isinstance(finer, list) or not all(isinstance(each, dict) for each in finer):
        raise ExportError(f"the calibration table's entry for '{name}' holds impossible formats", hint=_HINT)
    choices = tuple(choice_from(name, each) for each in (entry, *finer))
    if any(not np.array_equal(each.factors, choices[0].factors) for each in choices):  # which are folded once
        raise ExportError(f"the calibration table's entry for '{name}' holds impossible factors", hint=_HINT)
    return choices


def choice_from(name: str, entry: Mapping[str, Any]) -> Choice:
    """The choice that was written down. Raises `ExportError` for values that can't be."""
    try:
        width, step = int(entry["width"]), float(entry["step"])
        if width > _WIDEST:
            raise ValueError(f"a width of {width}")
        factors = entry["channel_factors"]
        channels = np.ones(width, np.float32) if factors is None else np.asarray(factors, np.float32)
        row_factors = None if entry["row_factors"] is None else np.asarray(entry["row_factors"], np.float32)
        snr, rows = float(entry["snr_db"]), entry["rows"]
        form = _FORMATS[entry.get("format", INT8.name)]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ExportError(f"the calibration table's entry for '{name}' is incomplete: {error}", hint=_HINT) from error
    arrays = [channels, *([] if row_factors is None else [row_factors])]
    good = all(array.ndim == 1 and np.isfinite(array).all() and (array > 0).all() for array in arrays)
    if not (good and channels.shape == (width,) and math.isfinite(step) and step > 0):
        raise ExportError(f"the calibration table's entry for '{name}' holds impossible factors", hint=_HINT)
    if rows not in ("none", "static", "dynamic") or (rows == "static") != (row_factors is not None):
        raise ExportError(f"the calibration table's entry for '{name}' holds impossible row factors", hint=_HINT)
    activation = Activation(step=step, rows=rows, row_factors=row_factors, format=form)
    return Choice(activation=activation, factors=channels, snr_db=snr)


def _pooled(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if len({tuple(_formats(each)) for each in entries}) > 1:
        raise ExportError("calibration tables of different precisions can't be merged", hint=_HINT)
    most = max(range(len(entries)), key=lambda i: _tokens(entries[i]))
    chosen = _widest(entries[most], entries)
    if "finer" in chosen:
        by_format = zip(*(each["finer"] for each in entries), strict=True)
        chosen["finer"] = [_widest(*each) for each in zip(chosen["finer"], by_format, strict=True)]
    chosen["roles"] = _pooled_roles([each["roles"] for each in entries])
    return chosen


def _widest(entry: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`entry` with the largest steps of all that chose alike."""
    chosen = dict(entry)
    alike = [each for each in entries if all(each[key] == chosen[key] for key in ("rows", "channel_factors"))]
    chosen["step"] = max(each["step"] for each in alike)
    if chosen["row_factors"] is not None:
        chosen["row_factors"] = [max(values) for values in zip(*(each["row_factors"] for each in alike), strict=True)]
    return chosen


def _formats(entry: Mapping[str, Any]) -> list[str]:
    return [each.get("format", INT8.name) for each in (entry, *entry.get("finer", []))]


def _tokens(entry: Mapping[str, Any]) -> int:
    return sum(role["count"] for role in entry["roles"].values())


def _pooled_roles(roles: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = sorted({name for each in roles for name in each})
    return {name: _pooled_figures([each[name] for each in roles if name in each]) for name in names}


def _pooled_figures(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    count = sum(part["count"] for part in parts)
    squares = sum(part["count"] * part["rms"] ** 2 for part in parts)
    figures: dict[str, Any] = {
        "count": count,
        "amax": max(part["amax"] for part in parts),
        "rms": math.sqrt(squares / count) if count else 0.0,
    }
    if "buckets" in parts[0]:
        figures["buckets"] = [_pooled_figures(bucket) for bucket in zip(*(p["buckets"] for p in parts), strict=True)]
    return figures


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode()
