"""Weights to codes: singly to the nearest, or one after another so that later ones make up for earlier errors.

The second is GPTQ (arXiv 2210.17323): minimises |x W - x Q|^2 over the inputs that were seen, by their sum of x^T x.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphs.quantize.formats import INT8, CodeFormat

Array = npt.NDArray[Any]
DAMPING = 0.05  # of the mean diagonal: inputs that were never seen matter too
BLOCK = 64


def nearest(weight: Array, steps: Array, form: CodeFormat = INT8) -> Array:
    """Codes [K, N], numbers of `form`, for steps that broadcast against the weight."""
    return form.nearest(weight / steps)


def compensated(weight: Array, steps: Array, hessian: Array, form: CodeFormat = INT8) -> Array:
    """Codes [K, N] by GPTQ for a `hessian` [K, K]; channels of large inputs are rounded first.

    `steps` are [N], or [K, N] where inputs have steps of their own.
    """
    order = np.argsort(-np.diagonal(hessian), kind="stable")
    spread = _error_spread(hessian[np.ix_(order, order)])
    if spread is None:
        return nearest(weight, steps, form)
    left, by_row = np.array(weight[order], np.float32), np.broadcast_to(steps, weight.shape)[order]
    codes = np.empty(left.shape, np.float32)
    for start in range(0, len(left), BLOCK):
        rows = slice(start, min(start + BLOCK, len(left)))
        codes[rows], errors = _round_block(left[rows], by_row[rows], spread[rows, rows], form)
        left[rows.stop :] -= spread[rows, rows.stop :].T @ errors
    result = np.empty_like(codes)
    result[order] = codes
    return result


def _round_block(rows: Array, steps: Array, spread: Array, form: CodeFormat) -> tuple[Array, Array]:
    """Codes of some rows [k, N], and the errors that the rows behind them have to make up for."""
    rows, codes, errors = rows.copy(), np.empty_like(rows), np.empty_like(rows)
    for i in range(len(rows)):
        codes[i] = nearest(rows[i], steps[i], form)
        errors[i] = (rows[i] - codes[i] * steps[i]) / spread[i, i]
        rows[i + 1 :] -= np.outer(spread[i, i + 1 :], errors[i])
    return codes, errors


def _error_spread(hessian: Array) -> Array | None:
    """Upper Cholesky factor of the damped inverse, [K, K] float32; None where nothing was seen."""
    diagonal = float(np.diagonal(hessian).mean())
    if diagonal <= 0:
        return None
    damped = hessian.astype(np.float64) + np.eye(len(hessian)) * (DAMPING * diagonal)
    return np.asarray(np.linalg.cholesky(np.linalg.inv(damped)).T, np.float32)
