"""The images that taps are recorded for: some of a golden batch, and some in the middle of the golden trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.config import BatchRange
from dsr_export.parity.golden import Golden
from dsr_export.sampling import SamplerSpec

Array = npt.NDArray[Any]
Infer = Callable[[dict[str, Array]], dict[str, Array]]


def tap_inputs(golden: Golden, sampler: SamplerSpec | None, rows: int) -> dict[str, Array]:
    """Inputs of at most `2 * rows` images: the first of the largest golden batch, and as many of the trajectory."""
    case = golden.cases[max(golden.cases)].inputs
    drawn = {name: value[:rows] for name, value in case.items()}
    walk = golden.trajectory
    if sampler is None or walk is None or len(walk.states) < 2:
        return drawn
    middle = len(walk.states) // 2
    count = min(rows, len(walk.labels))
    inside = {
        "x": walk.states[middle - 1][:count].astype(np.float32),
        "t": np.full(count, sampler.grid[middle], np.float32),
        "y": walk.labels[:count].astype(np.int64),
    }
    return {name: np.concatenate([inside[name], drawn[name]]) for name in drawn}


def in_batches(infer: Infer, inputs: Mapping[str, Array], batch: BatchRange) -> dict[str, Array]:
    """What `infer` makes of any number of images, in batches that it takes; the last image fills up a batch."""
    rows = len(next(iter(inputs.values())))
    size = min(max(rows, batch.min), batch.max)
    parts: list[dict[str, Array]] = []
    for start in range(0, rows, size):
        taken = np.minimum(np.arange(start, start + size), rows - 1)
        parts.append(infer({name: np.ascontiguousarray(value[taken]) for name, value in inputs.items()}))
    return {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}
