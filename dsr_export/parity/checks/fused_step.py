"""A graph that holds a whole step of the sampler, against the reference: single calls, and the whole trajectory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import Runner
from dsr_export.backends.steps import stepping
from dsr_export.config import BatchRange
from dsr_export.errors import RunnerError
from dsr_export.parity.candidate import Pair
from dsr_export.parity.checks.table import TRAJECTORY, ParityReport
from dsr_export.parity.checks.trajectory import walk
from dsr_export.parity.golden.vectors import Golden
from dsr_export.parity.metrics import Comparison, compare
from dsr_export.parity.rows import ParityRow
from dsr_export.parity.tolerances import Tolerance
from dsr_export.sampling import SamplerSpec, fused_trajectory, stepped
from graphs.sampling.fused_step import COLUMNS, INDEX, LABELS, NEXT_STATE, ROWS, STATE, TABLE, TIME

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class StepCandidate:
    """The runner of a step graph, and what it is held to. `images` are the batches that it takes."""

    runner: Runner
    golden: Golden
    sampler: SamplerSpec
    images: BatchRange
    tolerance: Tolerance


def check_step(candidate: StepCandidate, progress: Callable[[int, int], None]) -> ParityReport:
    """A row `step-N` for each batch of N images, and the trajectory with its pictures."""
    golden, runner = candidate.golden, candidate.runner
    pairs = step_rows(golden, candidate.images)
    rows = [_row(candidate, pair, _prediction(candidate, size)) for size, pair in pairs.items()]
    start = golden.trajectory
    if start is None:
        return ParityReport(tuple(rows))
    steps = fused_trajectory(stepping(runner), candidate.sampler, start.noise, start.labels)  # as they are drawn
    walked = walk(steps, start, progress)
    rows.append(_row(candidate, TRAJECTORY, walked.last))
    pictures = walked.pictures(runner.name, candidate.tolerance)
    return ParityReport(tuple(rows), tuple(walked.growth), tuple(pictures), walked.sample)


def _row(candidate: StepCandidate, pair: tuple[str, str], found: Comparison) -> ParityRow:
    return ParityRow.of(*pair, candidate.runner.name, candidate.golden.reference, found, candidate.tolerance)


def step_rows(golden: Golden, images: BatchRange) -> dict[int, Pair]:
    """Number of images in a call -> check and output of the row that compares its prediction."""
    given = golden.cases[max(golden.cases)]
    output = next(iter(given.outputs))
    return {size: (f"step-{size}", output) for size in images.sizes() if size <= given.rows}


def _prediction(candidate: StepCandidate, size: int) -> Comparison:
    """A step that keeps nothing, takes all of the prediction and guides by 1 is the model itself.

    All images of a step have one time: that of the last, which alone is compared.
    """
    case = candidate.golden.cases[max(candidate.golden.cases)]
    inputs, last = case.inputs, size - 1
    truth = next(iter(case.outputs.values()))[last:size]
    table = np.zeros((ROWS, COLUMNS), np.float32)
    table[0] = inputs[TIME][last], 0, 1, 1
    fed = {STATE: inputs[STATE][:size], LABELS: inputs[LABELS][:size], TABLE: table, INDEX: np.zeros(1, np.int64)}
    try:
        made = stepped(candidate.runner.infer, fed)[NEXT_STATE][last:]
    except RunnerError as error:
        return Comparison(problem=error.message)
    return compare(truth[:, : made.shape[1]], made)
