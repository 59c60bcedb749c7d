"""Any number of images through a model that takes batches of some sizes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.config import BatchRange

Array = npt.NDArray[Any]
Infer = Callable[[dict[str, Array]], dict[str, Array]]


def batches(inputs: Mapping[str, Array], batch: BatchRange) -> Iterator[dict[str, Array]]:
    """The images in batches that `batch` allows, all of one size: the last is filled up."""
    rows = len(next(iter(inputs.values())))
    size = min(max(rows, batch.min), batch.max)
    for start in range(0, rows, size):
        taken = start + filled(min(size, rows - start), size)
        yield {name: np.ascontiguousarray(value[taken]) for name, value in inputs.items()}


def filled(rows: int, least: int) -> npt.NDArray[np.int64]:
    """Indices of a batch of at least `least` rows, where there are `rows`: they start over until it is full."""
    return np.arange(max(rows, least)) % rows


def in_batches(infer: Infer, inputs: Mapping[str, Array], batch: BatchRange) -> dict[str, Array]:
    """What `infer` makes of any number of images."""
    rows = len(next(iter(inputs.values())))
    parts = [infer(part) for part in batches(inputs, batch)]
    return {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}
