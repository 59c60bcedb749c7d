"""Shares of a calibration: written where they were measured, and taken together where the build is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.part_arrays import exact_arrays, merge_exact, merge_sums, sum_arrays
from calibration.sections import Sections
from calibration.stats import ActivationStats
from dsr_export.declarations.calibration_part import RECORD, Part
from dsr_export.declarations.share import Share
from dsr_export.errors import ExportError
from dsr_export.int8.kept_calls import KeptCalls
from dsr_export.int8.measure import Measured, ObservedGraph
from dsr_export.progress import Bar
from dsr_export.storage.disk import flush_path, write_durably
from dsr_export.storage.npz_file import read_npz
from graphs.digests import files_digest

Array = npt.NDArray[Any]
KEPT = "kept.npz"
_ALL = "measure all shares again"


def write_part(folder: Path, found: Measured, share: Share, sections: Sections, made_for: Mapping[str, Any]) -> None:
    """Writes a share into the empty `folder`, its record last. Raises OSError."""
    files = {KEPT: _saved(folder / KEPT, found.kept.arrays())}
    names: dict[str, list[str]] = {}
    for i, (activation, stats) in enumerate(found.stats.items()):
        own = {f"{i}.npz": _saved(folder / f"{i}.npz", exact_arrays(stats))}
        for k, arrays in enumerate(sum_arrays(stats)):
            own[f"{i}-{k}.npz"] = _saved(folder / f"{i}-{k}.npz", arrays)
        names[activation] = list(own)
        files |= own
    part = Part(
        folder=folder,
        made_for=made_for,
        share=share,
        sections=sections.count,
        files=files,
        activations=names,
        kept=KEPT,
    )
    write_durably(part.to_bytes(), folder / RECORD)
    flush_path(folder)


def joined_parts(observed: ObservedGraph, parts: Sequence[Part], bar: Bar) -> Measured:
    """What all shares measured, as if one machine had. Files are in memory one at a time.

    Raises:
        ExportError: a file is missing or damaged, or not of this graph.
    """
    stats, kept = observed.observers(parts[0].sections), KeptCalls()
    for part in parts:
        if part.activations.keys() != stats.keys():
            raise ExportError(f"{part.folder} is of other activations than this model's", hint=part.again)
        _taken(part, part.kept, kept.merge)
    for i, (name, each) in enumerate(stats.items()):
        for part in parts:
            exact, *sums = part.activations[name]
            _taken(part, exact, partial(merge_exact, each))
            for file in sums:
                _taken(part, file, partial(merge_sums, each))
        _check_whole(each, parts[0])
        bar(i + 1, len(stats))
    return Measured(stats, kept)


def _check_whole(stats: ActivationStats, part: Part) -> None:
    try:
        stats.added.whole()
    except ValueError as error:
        raise ExportError(f"{part.folder} and the other shares do not fit together: {error}", hint=_ALL) from error


def _taken(part: Part, name: str, take: Callable[[Mapping[str, Array]], None]) -> None:
    path = part.file(name)
    try:
        take(read_npz(path, hint=part.again))
    except (KeyError, ValueError, TypeError) as error:
        raise ExportError(f"{path} holds no statistics of this model: {error}", hint=part.again) from error


def _saved(path: Path, arrays: Mapping[str, Array]) -> str:
    """Writes an npz to the disk; returns its sha256."""
    with path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    flush_path(path)
    return files_digest([path])
