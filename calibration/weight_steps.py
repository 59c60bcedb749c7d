"""Steps of a weight's codes: one for each output channel, or one for each block of inputs of a channel.

Those of blocks are chosen: a few large weights may be clipped where all others gain by it, counted by how large the
inputs are that they meet. They are numbers that the file holds exactly: FP16, or FP8 times a power of two.
Sources: AWQ's search for clipping (arXiv 2306.00978), applied to each block; NVFP4's two levels of scales.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphs.precisions import HALF
from graphs.quantize.formats import INT8, CodeFormat
from graphs.quantize.schemes import GemmFormat

Array = npt.NDArray[Any]
SHARES = (1.0, 0.95, 0.9, 0.875, 0.85, 0.8, 0.75)
"""Of a block's range; the whole of it first, which wins where nothing gains, and lets -8 be INT4's largest."""


def weight_steps(weight: Array, form: CodeFormat = INT8) -> Array:
    """The step of each output channel of a weight [K, N], so that nothing is clipped; 1 for channels of zeros."""
    steps = np.abs(weight).max(axis=0) / form.largest
    return np.asarray(np.where(steps >= np.finfo(np.float32).tiny, steps, 1.0), np.float32)


def format_steps(weight: Array, wanted: GemmFormat, importance: Array | None = None) -> Array:
    """[N], or [K / block, N], of a weight [K, N]. `importance` [K] weighs the errors of each input's weights.

    Without it nothing is clipped.
    """
    if wanted.block is None:
        return weight_steps(weight, wanted.weights)
    blocks = weight.reshape(-1, wanted.block, weight.shape[1])
    largest = np.abs(blocks).max(axis=1) / wanted.weights.largest
    unit = block_unit(weight, wanted)
    whole = _held(largest, unit, wanted)
    if importance is None:
        return whole
    weights = importance.reshape(-1, wanted.block, 1)
    best, least = whole, _error(blocks, whole, weights, wanted.weights)
    for share in SHARES[1:]:
        steps = _held(largest * share, unit, wanted)
        error = _error(blocks, steps, weights, wanted.weights)
        best, least = np.where(error < least, steps, best), np.minimum(error, least)
    return best


def by_input(steps: Array, inputs: int) -> Array:
    """Steps that broadcast against a weight of so many inputs: those of blocks are repeated."""
    return steps if steps.ndim == 1 else np.repeat(steps, inputs // len(steps), axis=0)


def block_unit(weight: Array, wanted: GemmFormat) -> float:
    """What the scales of its blocks are multiples of: a power of two, which FP16 holds.

    1 where scales have no format of their own.
    """
    if wanted.scales is None:
        return 1.0
    largest = float(np.abs(weight).max(initial=0.0)) / wanted.weights.largest
    return power_of_two(largest / wanted.scales.largest)


def power_of_two(least: float) -> float:
    """The next one from `least` on; those that FP16 holds at full precision."""
    return float(2.0 ** np.clip(np.ceil(np.log2(max(least, 1e-30))), -14, 15))


def _held(steps: Array, unit: float, wanted: GemmFormat) -> Array:
    """The nearest steps that are held, `unit` where there is nothing but zeros: 1 may be beyond what their format
    holds, and codes of 0 times NaN are no zeros."""
    if wanted.scales is None:
        held = np.minimum(steps, HALF.largest).astype(np.float16).astype(np.float32)
    else:
        held = wanted.scales.nearest(steps / unit) * np.float32(unit)
    return np.asarray(np.where(held > 0, held, unit), np.float32)


def _error(blocks: Array, steps: Array, weights: Array, form: CodeFormat) -> Array:
    each = steps[:, None, :]
    return np.asarray((np.square(form.nearest(blocks / each) * each - blocks) * weights).sum(axis=1))
