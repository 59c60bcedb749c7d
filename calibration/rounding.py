"""Weights to INT8 codes: singly to the nearest, or one after another so that later ones make up for earlier errors.

The second is GPTQ (arXiv 2210.17323): minimises |x W - x Q|^2 over the inputs that were seen, by their sum of x^T x.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphs.quantize.quantizers import LARGEST_CODE

Array = npt.NDArray[Any]
DAMPING = 0.05  # of the mean diagonal: inputs that were never seen matter too
BLOCK = 64


def weight_steps(weight: Array) -> Array:
    """The step of each output channel of a weight [K, N], so that nothing is clipped; 1 for channels of zeros."""
    steps = np.abs(weight).max(axis=0) / LARGEST_CODE
    return np.asarray(np.where(steps >= np.finfo(np.float32).tiny, steps, 1.0), np.float32)


def nearest(weight: Array, steps: Array) -> Array:
    """Codes int8 [K, N]."""
    return np.clip(np.rint(weight / steps), -LARGEST_CODE, LARGEST_CODE).astype(np.int8)


def compensated(weight: Array, steps: Array, hessian: Array) -> Array:
    """Codes int8 [K, N] by GPTQ for a `hessian` [K, K]; channels of large inputs are rounded first."""
    order = np.argsort(-np.diagonal(hessian), kind="stable")
    spread = _error_spread(hessian[np.ix_(order, order)])
    if spread is None:
        return nearest(weight, steps)
    left = np.array(weight[order], np.float32)
    codes = np.empty(left.shape, np.int8)
    for start in range(0, len(left), BLOCK):
        end = min(start + BLOCK, len(left))
        codes[start:end], errors = _round_block(left[start:end], steps, spread[start:end, start:end])
        left[end:] -= spread[start:end, end:].T @ errors
    result = np.empty_like(codes)
    result[order] = codes
    return result


def _round_block(rows: Array, steps: Array, spread: Array) -> tuple[Array, Array]:
    """Codes of some rows [k, N], and the errors that the rows behind them have to make up for."""
    rows, codes, errors = rows.copy(), np.empty(rows.shape, np.int8), np.empty_like(rows)
    for i in range(len(rows)):
        codes[i] = nearest(rows[i], steps)
        errors[i] = (rows[i] - codes[i] * steps) / spread[i, i]
        rows[i + 1 :] -= np.outer(spread[i, i + 1 :], errors[i])
    return codes, errors


def _error_spread(hessian: Array) -> Array | None:
    """Upper Cholesky factor of the damped inverse, [K, K] float32; None where nothing was seen."""
    diagonal = float(np.diagonal(hessian).mean())
    if diagonal <= 0:
        return None
    damped = hessian.astype(np.float64) + np.eye(len(hessian)) * (DAMPING * diagonal)
    return np.asarray(np.linalg.cholesky(np.linalg.inv(damped)).T, np.float32)
