"""Seeded example inputs, row by row, for every kind of subject."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphs.artifacts import TensorSpec

Array = npt.NDArray[Any]
Draw: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], Array]
"""Draws one row of an input: generator and shape without the batch axis -> values."""
NOTHING_GIVEN: Mapping[str, Array] = MappingProxyType({})


def draw_inputs(
    inputs: Sequence[TensorSpec],
    batch: int,
    *,
    seed: int,
    num_classes: int = 0,
    draws: Mapping[str, Draw],
    given: Mapping[str, Array] = NOTHING_GIVEN,
) -> dict[str, Array]:
    """Inputs by name, batch first: as `draws` says, or as `given`, or normal `x`, uniform `t` and random labels.

    `given` are rows [n, ...] by name, taken whole and in turn: what one row holds belongs together.
    Row i does not depend on `batch`.
    """
    rows = [_row(inputs, np.random.default_rng([seed, i]), num_classes, draws, _taken(given, i)) for i in range(batch)]
    return {spec.name: np.stack([row[spec.name] for row in rows]) for spec in inputs}


def _taken(given: Mapping[str, Array], index: int) -> dict[str, Array]:
    return {name: values[index % len(values)] for name, values in given.items()}


def draw_below(bound: int) -> Draw:
    """Draws integers from 0 to `bound` - 1."""
    return lambda rng, shape: np.asarray(rng.integers(0, bound, shape))


def _row(
    inputs: Sequence[TensorSpec],
    rng: np.random.Generator,
    num_classes: int,
    draws: Mapping[str, Draw],
    given: Mapping[str, Array],
) -> dict[str, Array]:
    row: dict[str, Array] = {}
    for spec in inputs:
        shape, dtype = spec.with_batch(1)[1:], np.dtype(spec.dtype)
        if spec.name in draws:
            row[spec.name] = np.asarray(draws[spec.name](rng, shape), dtype)
        elif spec.name in given:
            row[spec.name] = np.asarray(given[spec.name], dtype)
        elif dtype.kind in "biu":
            row[spec.name] = np.asarray(rng.integers(0, 2 if dtype.kind == "b" else max(num_classes, 1), shape), dtype)
        elif spec.name == "t":
            row[spec.name] = np.asarray(rng.uniform(0.02, 1.0, shape), np.float32)
        else:
            row[spec.name] = np.asarray(rng.standard_normal(shape), np.float32)
    return row
