"""Which of a user's example inputs may be redrawn element by element, and how; the others hold a structure.

A mask that is drawn anew is no mask, mixed positions are none, and ids, lengths and masks of one row belong together.
So only what looks like measurements (noise, pictures, embeddings) is drawn; the rest is taken as it is, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.example_rows.drawn import Draw

Array = npt.NDArray[Any]
FEW = 8  # distinct values: flags, levels, coordinates of a small grid
HUGE = 1e30  # stands for minus infinity in additive masks
NEAR_ONE = 1e-3


def draws_like(given: Mapping[str, Array]) -> dict[str, Draw]:
    """How the inputs are drawn that may be; `given` are rows [n, ...] by name.

    Where none looks like measurements, the first float input that can be one is drawn all the same: a model is not
    tested by a constant. That is none where integers [n, T, ...] are what it reads, nor anything called a mask.
    """
    draws = {name: _draw(values) for name, values in given.items() if _is_measured(values)}
    if not draws and not any(values.dtype.kind in "iu" and values.ndim > 1 for values in given.values()):
        first = [name for name, values in given.items() if _can_be_measured(name, values)]
        draws = {name: _draw(given[name]) for name in first[:1]}
    return draws


def _is_measured(values: Array) -> bool:
    if values.dtype.kind != "f" or values.ndim < 2 or not np.isfinite(values).all() or np.abs(values).max() >= HUGE:
        return False
    if len(values) > 1 and (values == values[0]).all():  # a table that does not depend on the row
        return False
    distinct = np.unique(values)
    varied = len(distinct) > FEW or (2 * len(distinct) > values.size and (distinct % 1 != 0).any())
    return varied and not _is_sorted(values)


def _is_sorted(values: Array) -> bool:
    """Positions and schedules; three elements are the fewest that show it."""
    steps = np.diff(values, axis=-1)
    return values.shape[-1] > 2 and bool((steps >= 0).all() or (steps <= 0).all())


def _can_be_measured(name: str, values: Array) -> bool:
    if values.dtype.kind != "f" or values.ndim < 2 or not np.isfinite(values).all() or np.abs(values).max() >= HUGE:
        return False
    distinct = np.unique(values)
    return "mask" not in name.lower() and (len(distinct) == 1 or len(distinct) > 2)


def _draw(values: Array) -> Draw:
    """From the values themselves, which are of the right range; normal where they are one constant."""
    pool = values.ravel()
    if pool.min() == pool.max():
        return lambda rng, shape: rng.standard_normal(shape)
    size = np.linalg.norm(values, axis=-1, keepdims=True)
    if values.shape[-1] > 1 and np.allclose(size, 1, atol=NEAR_ONE):
        return lambda rng, shape: _divided(rng.choice(pool, shape), 2)
    if values.shape[-1] > 1 and pool.min() >= 0 and np.allclose(values.sum(-1), 1, atol=NEAR_ONE):
        return lambda rng, shape: _divided(rng.choice(pool, shape), 1)
    return lambda rng, shape: np.asarray(rng.choice(pool, shape))


def _divided(values: Array, order: int) -> Array:
    """Vectors of length one, or of sum one, as the example's are."""
    size = np.linalg.norm(values, ord=order, axis=-1, keepdims=True)
    return np.asarray(values / np.where(size > 0, size, 1), np.float32)
