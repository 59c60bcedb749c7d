"""Statistics as plain arrays, and what others measured of the same activation taken in: exactly, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.methods.magnitudes import Magnitudes
from calibration.sections import Sums
from calibration.stats import SAMPLE_ROWS, ActivationStats

Array = npt.NDArray[Any]
_SAMPLE = "sample/"
NODE = "node"
_HIGHEST = 32  # level
_LARGEST = ("channel_largest", "row_largest", "largest", "patch_largest", "role_largest")


def exact_arrays(stats: ActivationStats) -> dict[str, Array]:
    """What comes out the same in any order, by name: counts, largest ones, and the sampled rows."""
    return {**_exact(stats), **{f"{_SAMPLE}{name}": value for name, value in stats.sample.arrays().items()}}


def sum_arrays(stats: ActivationStats) -> Iterator[dict[str, Array]]:
    """What adds up, by name, for a few runs of sections: see `calibration.sections`. One is in memory at a time."""
    for node, sums in stats.added.nodes():
        yield {**sums.arrays(), NODE: np.array(node)}


def merge_exact(stats: ActivationStats, arrays: Mapping[str, Array]) -> None:
    """Takes in what `exact_arrays` gave for other sections of the same data.

    Raises:
        ValueError: they are of another activation, or of none.
    """
    mine = exact_arrays(stats)
    _check_names(arrays, mine)
    for name, value in arrays.items():
        _check(name, value, mine[name], rows=name.startswith(_SAMPLE))
    sample = {name.removeprefix(_SAMPLE): value for name, value in arrays.items() if name.startswith(_SAMPLE)}
    if len({len(value) for value in sample.values()}) != 1:
        raise ValueError("the sampled rows differ in number")
    _take(stats, {name: value for name, value in arrays.items() if not name.startswith(_SAMPLE)})
    stats.sample.merge(sample)


def merge_sums(stats: ActivationStats, arrays: Mapping[str, Array]) -> None:
    """The same for one of `sum_arrays`, which is used up: its arrays may be added to."""
    like = {**stats.added.zeros().arrays(), NODE: np.zeros(2, np.int64)}
    _check_names(arrays, like)
    for name, value in arrays.items():
        _check(name, value, like[name])
    level, index = arrays[NODE].tolist()
    if not (0 <= level < _HIGHEST and index >= 0 and index << level < stats.sections):
        raise ValueError("they are of sections that the data does not have")
    stats.added.put((level, index), Sums(**{name: value for name, value in arrays.items() if name != NODE}))


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


def _check_names(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
    if other := found.keys() ^ wanted.keys():
        raise ValueError(f"'{min(other)[:80]}' is {'missing' if min(other) in wanted else 'unknown'}")


def _check(name: str, value: Array, like: Array, *, rows: bool = False) -> None:
    """Raises ValueError unless `value` is of the type and shape of `like`; of `rows`, there may be another number."""
    wanted, found = (like.shape[1:], value.shape[1:]) if rows else (like.shape, value.shape)
    many = rows and (value.ndim != like.ndim or len(value) > SAMPLE_ROWS)
    if value.dtype != like.dtype or wanted != found or many:
        raise ValueError(f"'{name}' is {value.dtype}{list(value.shape)}, not {like.dtype}{list(like.shape)}")
