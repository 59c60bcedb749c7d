"""Comparing two arrays. Shape, type, NaN and infinity are judged before any subtraction; a failure is a result.

NaN and infinities where the reference has the very same (a masked softmax over nothing is NaN in PyTorch, too) are no
error, and have none: figures are of the finite rest. One that stands alone on either side is a failure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.parity.decibels import decibels
from dsr_export.parity.tolerances import Tolerance

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Figures of the worst row (batch item) for each metric; `problem` says why nothing could be measured.

    `non_finite` values are NaN or infinite alike in both, and in none of the figures.
    """

    max_abs: float | None = None
    mean_abs: float | None = None
    cosine: float | None = None
    psnr_db: float | None = None
    snr_db: float | None = None
    range: float | None = None
    problem: str | None = None
    non_finite: int = 0

    def within(self, tolerance: Tolerance) -> bool:
        if self.problem is not None or self.cosine is None or self.psnr_db is None or self.snr_db is None:
            return False
        bounded = tolerance.max_abs is None or (
            self.max_abs is not None and self.max_abs <= tolerance.max_abs * max(1.0, self.range or 0.0)
        )
        similar = self.cosine >= tolerance.cosine
        return bounded and similar and self.psnr_db >= tolerance.psnr_db and self.snr_db >= tolerance.snr_db

    def as_dict(self) -> dict[str, Any]:
        """Without `non_finite` where there is nothing to say about it."""
        fields = asdict(self)
        return fields if self.non_finite else {key: value for key, value in fields.items() if key != "non_finite"}


def compare(reference: Array, candidate: Array) -> Comparison:
    """`candidate` against `reference`, both [batch, ...]. PSNR takes the reference's range over the whole batch."""
    problem = _problem(reference, candidate)
    if problem is not None:
        return Comparison(problem=problem)
    finite = np.isfinite(reference)
    truth, made = (_rows(np.where(finite, values, 0)) for values in (reference, candidate))
    error, count = made - truth, np.maximum(finite.reshape(len(finite), -1).sum(axis=1), 1)
    span = float(np.ptp(reference[finite].astype(np.float64))) or 1.0
    noise = np.square(error).sum(axis=1) / count
    return Comparison(
        max_abs=float(np.abs(error).max()),
        mean_abs=float((np.abs(error).sum(axis=1) / count).max()),
        cosine=float(_cosine(truth, made).min()),
        psnr_db=float(decibels(span**2, noise).min()),
        snr_db=float(decibels(np.square(truth).sum(axis=1) / count, noise).min()),
        range=span,
        non_finite=int(finite.size - np.count_nonzero(finite)),
    )


def _problem(reference: Array, candidate: Array) -> str | None:
    if reference.shape != candidate.shape:
        return f"shape {candidate.shape} where {reference.shape} is expected"
    if reference.dtype != candidate.dtype:
        return f"type {candidate.dtype} where {reference.dtype} is expected"
    different = ~same_kinds(reference, candidate)
    for name, values in (("reference", reference), ("candidate", candidate)):
        bad = int(np.count_nonzero(different & ~np.isfinite(values)))
        if bad:
            return f"{bad} of {values.size} values of the {name} are NaN or infinite"
    if reference.size and not np.isfinite(reference).any():
        return f"all {reference.size} values of the reference are NaN or infinite, so that nothing can be compared"
    return None


def same_kinds(reference: Array, candidate: Array) -> Array:
    """Where two arrays of one shape are both finite, or both NaN, or the same infinity."""
    return np.asarray(_kinds(reference) == _kinds(candidate))


def _kinds(values: Array) -> Array:
    """0 where finite, else which of NaN and the infinities it is."""
    return np.asarray(np.isnan(values) + 2 * (values == np.inf) + 3 * (values == -np.inf))


def _rows(values: Array) -> Array:
    """[batch, ...] -> [batch, n] in FP64."""
    return values.reshape(len(values), -1).astype(np.float64)


def _cosine(a: Array, b: Array) -> Array:
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    equal = (a == b).all(axis=1)  # two zero rows are alike, although 0 / 0 says nothing
    return np.where(equal, 1.0, (a * b).sum(axis=1) / np.where(size > 0, size, 1.0))
