"""What is checked: `Plan`, all that is known before anything is run, and `Candidate`, the runner that is held to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import Runner, as_denoiser
from dsr_export.errors import RunnerError
from dsr_export.parity.batch_calls import remembered
from dsr_export.parity.checks.trajectory import Walk, walk
from dsr_export.parity.golden.vectors import Golden
from dsr_export.parity.metrics import Comparison, compare
from dsr_export.parity.tolerances import Tolerance
from dsr_export.sampling import SamplerSpec, trajectory

Array = npt.NDArray[Any]
Made = Mapping[str, "Array | str"]
"""Outputs by name; in place of one that is missing, the reason."""
Pair = tuple[str, str]
"""Check and output of a row."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What there is to compare with; `sampler` is that of the golden trajectory, None where there is none."""

    golden: Golden
    sampler: SamplerSpec | None

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(next(iter(self.golden.cases.values())).outputs)

    @property
    def smallest(self) -> int:
        return min(self.golden.cases)

    @property
    def largest(self) -> int:
        return max(self.golden.cases)


@dataclass(frozen=True, kw_only=True)
class Candidate(Plan):
    """One runner, and the bounds it is held to. What several checks look at is computed once."""

    runner: Runner
    tolerance: Tolerance
    progress: Callable[[int, int], None]

    def infer(self, inputs: Mapping[str, Array]) -> Made:
        """What the runner makes of `inputs`; in place of a missing output, or of all where the call fails, why."""
        try:
            made = self.runner.infer(dict(inputs))
        except RunnerError as error:
            return dict.fromkeys(self.outputs, error.message)
        rows = len(next(iter(inputs.values())))
        return {name: _output(made.get(name), rows) for name in self.outputs}

    @cached_property
    def once(self) -> Callable[[dict[str, Array]], Made]:
        """As `infer`, and for the same inputs the first answer again: for checks that ask whether it is right."""
        return remembered(lambda inputs: dict(self.infer(inputs)))

    @cached_property
    def batches(self) -> dict[int, Made]:
        """What it makes of each golden batch."""
        return {size: self.once(dict(case.inputs)) for size, case in self.golden.cases.items()}

    @cached_property
    def walk(self) -> Walk | None:
        """Its sampling run, where the golden vectors hold one."""
        if self.sampler is None or self.golden.trajectory is None:
            return None
        start = self.golden.trajectory
        steps = trajectory(as_denoiser(self.runner), self.sampler, start.noise, start.labels)
        return walk(steps, start, self.progress)


def judge(truth: Array, candidate: Array | str) -> Comparison:
    """A candidate's output, or why there is none."""
    return Comparison(problem=candidate) if isinstance(candidate, str) else compare(truth, candidate)


def images(inputs: Mapping[str, Array], which: slice) -> dict[str, Array]:
    """Some images of a batch, as a batch."""
    return {name: np.ascontiguousarray(value[which]) for name, value in inputs.items()}


def _output(made: Array | None, rows: int) -> Array | str:
    """What can be compared row by row, or why it cannot."""
    if made is None:
        return "the candidate has no such output"
    if not made.ndim or len(made) != rows:
        return f"shape {made.shape} where {rows} rows are expected"
    return made
