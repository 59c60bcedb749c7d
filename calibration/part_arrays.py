"""Statistics as plain arrays, and what others measured of the same activation taken in: exactly, in any order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.methods.magnitudes import Magnitudes
from calibration.sections import Node, Sums
from calibration.stats import SAMPLE_ROWS, ActivationStats

Array = npt.NDArray[Any]
_SAMPLE = "sample/"
_NODE = re.compile(r"sections/(\d{1,4})/(\d{1,4})/(\w+)")
_LARGEST = ("channel_largest", "row_largest", "largest", "patch_largest", "role_largest")


def part_arrays(stats: ActivationStats) -> dict[str, Array]:
    """All that was seen, by name. What adds up stands under `sections/LEVEL/INDEX/`: see `calibration.sections`."""
    found = _exact(stats)
    found |= {f"{_SAMPLE}{name}": value for name, value in stats.sample.arrays().items()}
    for (level, index), sums in stats.added.nodes().items():
        found |= {f"sections/{level}/{index}/{name}": value for name, value in sums.arrays().items()}
    return found


def merge_part(stats: ActivationStats, arrays: Mapping[str, Array]) -> None:
    """Takes in what `part_arrays` gave for other sections of the same data.

    Raises:
        ValueError: they are of another activation, or of none.
    """
    mine, zeros = _exact(stats), stats.added.zeros().arrays()
    sample = {f"{_SAMPLE}{name}": value for name, value in stats.sample.arrays().items()}
    nodes: dict[Node, dict[str, Array]] = {}
    for name, value in arrays.items():
        if (match := _NODE.fullmatch(name)) is not None:
            _check(name, value, zeros.get(match[3]))
            nodes.setdefault((int(match[1]), int(match[2])), {})[match[3]] = value
        else:
            _check(name, value, mine.get(name, sample.get(name)), rows=name in sample)
    if missing := (mine.keys() | sample.keys()) - arrays.keys():
        raise ValueError(f"'{min(missing)}' is missing")
    if len({len(arrays[name]) for name in sample}) != 1 or any(each.keys() != zeros.keys() for each in nodes.values()):
        raise ValueError("arrays that belong together differ in length, or are missing")
    _take(stats, {name: arrays[name] for name in mine})
    stats.sample.merge({name.removeprefix(_SAMPLE): arrays[name] for name in sample})
    for node, sums in nodes.items():
        stats.added.put(node, Sums(**sums))


def _exact(stats: ActivationStats) -> dict[str, Array]:
    """What is a count or a largest one: it comes out the same in any order."""
    return {
        "channel_largest": stats.channel_largest,
        "row_largest": stats.row_largest,
        "counts": stats.magnitudes.counts,
        "largest": np.array(stats.magnitudes.largest),
        "patch_counts": stats.patch_magnitudes.counts,
        "patch_largest": np.array(stats.patch_magnitudes.largest),
        "role_tokens": stats.role_tokens,
        "role_largest": stats.role_largest,
        "count": np.array(stats.count),
    }


def _take(stats: ActivationStats, other: Mapping[str, Array]) -> None:
    mine = _exact(stats)
    both = {
        name: np.maximum(mine[name], value) if name in _LARGEST else mine[name] + value for name, value in other.items()
    }
    stats.channel_largest, stats.row_largest = both["channel_largest"], both["row_largest"]
    stats.role_tokens, stats.role_largest = both["role_tokens"], both["role_largest"]
    stats.magnitudes = Magnitudes(both["counts"], float(both["largest"]))
    stats.patch_magnitudes = Magnitudes(both["patch_counts"], float(both["patch_largest"]))
    stats.count = int(both["count"])


def _check(name: str, value: Array, like: Array | None, *, rows: bool = False) -> None:
    """Raises ValueError unless `value` is of the type and shape of `like`; of `rows`, there may be another number."""
    if like is None:
        raise ValueError(f"there is no '{name[:80]}'")
    wanted, found = (like.shape[1:], value.shape[1:]) if rows else (like.shape, value.shape)
    many = rows and (value.ndim != like.ndim or len(value) > SAMPLE_ROWS)
    if value.dtype != like.dtype or wanted != found or many:
        raise ValueError(f"'{name}' is {value.dtype}{list(value.shape)}, not {like.dtype}{list(like.shape)}")
