"""What was measured of pictures, joined with what was measured of those that follow them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.evaluation.moments import Moments

Array = npt.NDArray[Any]
CANDIDATE, REFERENCE, PAIRS, SHOWN = "candidate/", "reference/", "pairs/", "shown/"
AT_ONCE = 64  # pictures in memory, full size
MOST_SHOWN = 24  # pictures of a part that a page may show


def joined(one: Mapping[str, Array], next_one: Mapping[str, Array]) -> dict[str, Array]:
    """Of the pictures of both, whose names and sizes agree: see `Measuring.part`."""
    found: dict[str, Array] = {}
    for name in one:
        if name.endswith("/mean"):
            prefix = name.removesuffix("mean")
            both = (Moments.from_arrays(each, prefix) for each in (one, next_one))
            found |= next(both).merged(next(both)).arrays(prefix)
        elif name.endswith("/shares"):
            counts = [int(each[f"{name.removesuffix('shares')}count"]) for each in (one, next_one)]
            found[name] = np.average([one[name], next_one[name]], axis=0, weights=counts)
        elif not name.endswith(("/count", "/scatter", "first")):
            found[name] = np.concatenate([one[name], next_one[name]])
    found["first"] = one["first"]
    return _fewer_shown(found)


def worst_places(found: Mapping[str, Array], count: int) -> Array:
    """Which of `count` pictures are shown, in their order: those that differ most, or the first ones."""
    pairs = {name.removeprefix(PAIRS): value for name, value in found.items() if name.startswith(PAIRS)}
    order = np.argsort(-pairs[worst_by(pairs)], kind="stable") if pairs else np.arange(count)
    return np.sort(order[:MOST_SHOWN])


def worst_by(pairs: Mapping[str, Array]) -> str:
    """By which distance pictures are sorted: LPIPS where it is there."""
    return "lpips" if "lpips" in pairs else "squared_error"


def _fewer_shown(found: dict[str, Array]) -> dict[str, Array]:
    """No more pictures than a page may show: the worst of all are among the worst of both halves."""
    index = found[f"{SHOWN}index"]
    kept = np.isin(index, worst_places(found, len(index)) + int(found["first"]))
    return {name: value[kept] if name.startswith(SHOWN) else value for name, value in found.items()}
