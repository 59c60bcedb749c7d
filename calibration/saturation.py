"""Weight steps whose products 16 bits hold: CPUs with AVX2 but no VNNI add neighbouring products in 16 bits first.

    vpmaddubsw: u_0 w_0 + u_1 w_1, cut off at 32767, for u = activation code + 128 and neighbouring input channels

Two large weights of one sign beside each other overflow where the activations are large as well, and what is cut off is
error: models that keep 50 dB elsewhere were seen to fall to 17 dB. Steps somewhat larger than the largest weight asks
for avoid it. Source: Intel 64 and IA-32 Architectures Software Developer's Manual, VPMADDUBSW.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
HELD = 32767
OFFSET = 128  # the kernels take unsigned activations


def held_steps(weight: Array, steps: Array, largest_code: int) -> Array:
    """`steps` [N] of a weight [K, N], enlarged where a sum of two products with codes up to `largest_code` overflows.

    Weights of opposite signs never overflow.
    """
    sums = np.abs(_pairs(weight).sum(axis=1)).max(axis=0, initial=0)
    held = sums / (_most(largest_code) - 1)  # less one: both may be rounded up
    return np.asarray(np.maximum(steps, held), np.float32)


def held_codes(codes: Array, largest_code: int) -> Array:
    """Codes int8 [K, N] whose sums are held for certain: compensated rounding moves weights."""
    held = np.array(codes, np.int16)
    pairs = _pairs(held)
    sums = pairs.sum(axis=1, dtype=np.int16)
    excess = np.maximum(np.abs(sums) - _most(largest_code), 0) * np.sign(sums)
    pairs[:, 0] -= excess // 2
    pairs[:, 1] -= excess - excess // 2
    return held.astype(np.int8)


def _most(largest_code: int) -> int:
    """What the codes of two neighbours may add up to."""
    return HELD // (largest_code + OFFSET)


def _pairs(rows: Array) -> Array:
    """A view [K / 2, 2, N] of neighbours along the first axis; an odd one has none."""
    return rows[: len(rows) // 2 * 2].reshape(-1, 2, rows.shape[1])
