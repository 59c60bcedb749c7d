"""The part of a weight that a branch of low rank in floats takes, so that the codes have less to hold.

    W = down up + rest,   |D (W - down up)| least for rank r,   D the root mean square of each input

Channel outliers that smoothing moved from the activation into a few rows of the weight are what such a branch takes.
Source: SVDQuant (arXiv 2411.05007); the subspace by iteration on a sketch (Halko et al., arXiv 0909.4061).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphs.precisions import HALF, HEADROOM

Array = npt.NDArray[Any]
EXTRA, ROUNDS, SEED = 8, 3, 0
LEAST_RANK, FEWEST_INPUTS = 16, 16  # so many inputs for each rank
LEAST_SHARE = 1e-12  # of the largest energy: an input that is never seen still has a weight
TINY = 1e-30
ROOM = (2.0**-7, 2.0**7)  # of the largest number of either matrix, where the output's size does not ask for more


def branch_of(weight: Array, rank: int, energy: Array) -> tuple[Array, Array]:
    """`down` [K, r] and `up` [r, N] float32, numbers that FP16 holds, for a weight [K, N] and each input's mean square
    [K]; r is at most `rank`, less where there are few inputs: the branch is to cost little beside the codes."""
    rank = min(rank, max(LEAST_RANK, len(weight) // FEWEST_INPUTS), *weight.shape)
    whole = float(energy.max(initial=0.0))
    size = np.sqrt(np.maximum(energy / whole, LEAST_SHARE) if whole > 0 else np.ones(len(weight))).astype(np.float32)
    values, right = _largest(weight * size[:, None], rank)
    # Not the left vectors over `size`: of an input that is hardly ever seen nothing but rounding would be left.
    left = weight @ right.T
    shares = _shares(np.sqrt(values * np.sqrt(whole if whole > 0 else 1.0)), left, right)
    return _held(left * shares), _held(right / shares[:, None])


def _largest(scaled: Array, rank: int) -> tuple[Array, Array]:
    """The largest singular values [r] of a matrix [K, N], and their right vectors [r, N]."""
    wide = min(rank + EXTRA, *scaled.shape)
    basis = scaled @ np.random.default_rng(SEED).standard_normal((scaled.shape[1], wide), np.float32)
    for _ in range(ROUNDS):
        basis = scaled @ (scaled.T @ np.linalg.qr(basis)[0])
    _, values, right = np.linalg.svd(np.linalg.qr(basis)[0].T @ scaled, full_matrices=False)
    return values[:rank], right[:rank]


def _shares(roots: Array, left: Array, right: Array) -> Array:
    """What `left` [K, r] is multiplied by and `right` [r, N] divided: half of the size to each, as far as FP16 holds
    both."""
    most, largest = (np.maximum(np.abs(each).max(axis=axis), TINY) for each, axis in ((left, 0), (right, 1)))
    wanted = np.clip(1 / np.maximum(roots, TINY), ROOM[0] / most, ROOM[1] * largest)
    end = HALF.largest / HEADROOM
    return np.asarray(np.clip(wanted, largest / end, end / most), np.float32)


def _held(values: Array) -> Array:
    return np.asarray(values.astype(np.float16), np.float32)
