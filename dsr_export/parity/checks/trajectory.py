"""A denoiser's whole sampling run beside the reference's: the error after each step, the last state, its pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import RunnerError
from dsr_export.parity.checks.pictures import PictureRow, picture_rows
from dsr_export.parity.decibels import IDENTICAL_DB
from dsr_export.parity.golden.vectors import ReferenceTrajectory
from dsr_export.parity.metrics import Comparison, compare
from dsr_export.parity.tolerances import Tolerance
from dsr_export.sampling import Step

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Walk:
    """A candidate's trajectory: SNR after each step, and the last state with its comparison.

    `truth` is the reference's state after as many steps; `sample` is None where the candidate broke off.
    """

    growth: list[float]
    last: Comparison
    truth: Array
    sample: Array | None

    def pictures(self, runtime: str, tolerance: Tolerance) -> list[PictureRow]:
        """One row for each picture of a run that came to its end; none for states that are no pictures."""
        if self.sample is None or self.last.problem is not None or self.truth.ndim != 4:
            return []
        return picture_rows(self.truth, self.sample, runtime, tolerance)


def walk(steps: Iterable[Step], reference: ReferenceTrajectory, progress: Progress) -> Walk:
    """The candidate's steps from the reference's noise."""
    growth: list[float] = []
    sample, last = None, Comparison(problem="the trajectory has no steps")
    try:
        for step in steps:
            sample = np.asarray(step.state)  # a copy, where it lies on a GPU
            last = compare(reference.states[step.index], sample)
            growth.append(-IDENTICAL_DB if last.snr_db is None else last.snr_db)
            progress(step.index + 1, len(reference.states))
    except RunnerError as error:  # a failing runtime is a failed check, with its reason in the report
        sample, last = None, Comparison(problem=error.message)
    return Walk(growth, last, np.asarray(reference.states[len(growth) - 1]), sample)
