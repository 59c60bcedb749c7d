"""Any number of images through a model that takes batches of some sizes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dsr_export.config import BatchRange
from graphs.digests import bytes_digest

Array = npt.NDArray[Any]
Made = TypeVar("Made")
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


def remembered(infer: Callable[[dict[str, Array]], dict[str, Made]]) -> Callable[[dict[str, Array]], dict[str, Made]]:
    """`infer`, asked once for the same inputs: in batches of one, equal rows are equal calls, and of a large model each
    takes a minute. It keeps every answer."""
    known: dict[str, dict[str, Made]] = {}

    def answer(inputs: dict[str, Array]) -> dict[str, Made]:
        described = repr([(name, value.dtype.str, value.shape) for name, value in inputs.items()]).encode()
        key = bytes_digest(described, *(value.tobytes() for value in inputs.values()))
        if key not in known:
            known[key] = infer(inputs)
        return dict(known[key])

    return answer
