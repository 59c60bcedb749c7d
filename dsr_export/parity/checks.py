"""The checks a bundle must pass, each a function over a runner and the golden vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import Runner, as_denoiser
from dsr_export.errors import RunnerError
from dsr_export.parity.batches import (
    check_between,
    check_determinism,
    check_fused,
    check_invariance,
    judge,
    stricter,
)
from dsr_export.parity.further import check_further
from dsr_export.parity.golden import Golden, ReferenceTrajectory
from dsr_export.parity.metrics import IDENTICAL_DB, Comparison, compare
from dsr_export.parity.pictures import PictureRow, picture_rows
from dsr_export.parity.rows import ParityRow
from dsr_export.parity.tolerances import Tolerance
from dsr_export.sampling import SamplerSpec, trajectory

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]
Outputs = dict[str, "Array | str"]
Opening = Callable[[], Runner | None]


@dataclass(frozen=True)
class ParityReport:
    """All rows of one candidate, the error of its trajectory after each step (SNR in dB), and its final pictures.

    `sample` is the candidate's own last state [n, C, H, W]; None where it has no trajectory or did not finish it.
    """

    rows: tuple[ParityRow, ...]
    trajectory_snr_db: tuple[float, ...] = ()
    images: tuple[PictureRow, ...] = ()
    sample: Array | None = field(default=None, compare=False)

    @property
    def passed(self) -> bool:
        pictures = all(image.passed for image in self.images)
        return bool(self.rows) and all(row.passed for row in self.rows) and pictures

    def as_dict(self) -> dict[str, Any]:
        rows, images = ([row.as_dict() for row in part] for part in (self.rows, self.images))
        growth = list(self.trajectory_snr_db)
        return {"passed": self.passed, "rows": rows, "trajectory_snr_db": growth, "images": images}


def check_parity(
    runner: Runner,
    golden: Golden,
    sampler: SamplerSpec | None,
    tolerance: Tolerance,
    progress: Progress,
    *,
    fused: Sequence[ParityRow] = (),
) -> ParityReport:
    """Every golden batch and sizes in between, given and special rows, batches against each other, and the whole
    trajectory of a denoiser.

    `fused` are the rows of the same model in the runtime's own kernels (`fused_rows`): part of the verdict.
    """
    names = tuple(next(iter(golden.cases.values())).outputs)

    def infer(inputs: Mapping[str, Array]) -> Outputs:
        return _outputs(runner, inputs, names)

    made = {size: infer(case.inputs) for size, case in golden.cases.items()}
    rows = list(fused)
    rows += [row for size in golden.cases for row in _check_batch(runner, golden, size, made[size], tolerance)]
    rows += check_between(infer, golden, runner.name, tolerance)
    rows += check_further(infer, golden, runner.name, tolerance)
    rows += _check_rows(runner, golden, tolerance)
    rows += check_determinism(infer, golden, made[min(made)], runner.name, tolerance)
    rows += check_invariance(infer, golden, made[max(made)], runner.name, tolerance)
    if sampler is None or golden.trajectory is None:
        return ParityReport(tuple(rows))
    walk = _walk(runner, golden.trajectory, sampler, progress)
    rows.append(ParityRow.of("trajectory", "sample", runner.name, golden.reference, walk.last, tolerance))
    truth = golden.trajectory.states[len(walk.growth) - 1]
    complete = walk.sample is not None and walk.last.problem is None and truth.ndim == 4
    images = picture_rows(truth, walk.sample, runner.name, tolerance) if complete and walk.sample is not None else []
    return ParityReport(tuple(rows), tuple(walk.growth), tuple(images), walk.sample)


def fused_rows(opening: Opening, golden: Golden, runtime: str, tolerance: Tolerance) -> list[ParityRow]:
    """What the kernels that users get make of the smallest batch; none where `opening` has no such runner.

    It is closed before another runner is opened: two copies of a large model's weights may not fit.
    """
    names = tuple(next(iter(golden.cases.values())).outputs)
    try:
        opened = opening()
    except RunnerError as error:  # what cannot be opened is a failed check, with its reason in the report
        problem = error.message
        return list(check_fused(lambda _: dict.fromkeys(names, problem), golden, runtime, tolerance))
    if opened is None:
        return []
    with opened as runner:
        return list(check_fused(partial(_outputs, runner, names=names), golden, runtime, tolerance))


def _check_batch(
    runner: Runner, golden: Golden, size: int, made: Mapping[str, Array | str], tolerance: Tolerance
) -> list[ParityRow]:
    case = golden.cases[size]
    return [
        ParityRow.of(f"batch-{size}", name, runner.name, golden.reference, judge(truth, made[name]), tolerance)
        for name, truth in case.outputs.items()
    ]


def _check_rows(runner: Runner, golden: Golden, tolerance: Tolerance) -> list[ParityRow]:
    """Equal rows must give equal rows: at the largest batch, one row over and over, all against the first."""
    size = max(golden.cases)
    row = _row_of_numbers(golden.cases[size].outputs)
    same = {name: np.repeat(value[row : row + 1], size, axis=0) for name, value in golden.cases[size].inputs.items()}
    rows = []
    for name, got in _outputs(runner, same, golden.cases[size].outputs).items():
        first = got if isinstance(got, str) else np.repeat(got[:1], size, axis=0)
        comparison = Comparison(problem=first) if isinstance(first, str) else judge(first, got)
        rows.append(ParityRow.of("rows", name, runner.name, f"row {row}", comparison, stricter(tolerance)))
    return rows


def _row_of_numbers(outputs: Mapping[str, Array]) -> int:
    """The first row of which the reference makes numbers: it may be NaN where nothing can be attended to."""
    finite = [np.isfinite(values).reshape(len(values), -1).any(axis=1) for values in outputs.values()]
    return int(np.argmax(np.all(finite, axis=0)))


@dataclass(frozen=True)
class _Walk:
    """A candidate's trajectory: SNR after each step, and the last state with its comparison."""

    growth: list[float]
    last: Comparison
    sample: Array | None


def _walk(runner: Runner, walk: ReferenceTrajectory, sampler: SamplerSpec, progress: Progress) -> _Walk:
    growth: list[float] = []
    sample, last = None, Comparison(problem="the trajectory has no steps")
    try:
        for step in trajectory(as_denoiser(runner), sampler, walk.noise, walk.labels):
            sample, last = step.state, compare(walk.states[step.index], step.state)
            growth.append(-IDENTICAL_DB if last.snr_db is None else last.snr_db)
            progress(step.index + 1, len(walk.states))
    except RunnerError as error:  # a failing runtime is a failed check, with its reason in the report
        sample, last = None, Comparison(problem=error.message)
    return _Walk(growth, last, sample)


def _outputs(runner: Runner, inputs: Mapping[str, Array], names: Iterable[str]) -> Outputs:
    """What the runner makes of `inputs`; in place of a missing output, or of all where the call fails, the reason."""
    try:
        made = runner.infer(dict(inputs))
    except RunnerError as error:
        return dict.fromkeys(names, error.message)
    rows = len(next(iter(inputs.values())))
    return {name: _output(made.get(name), rows) for name in names}


def _output(made: Array | None, rows: int) -> Array | str:
    """What can be compared row by row, or why it cannot."""
    if made is None:
        return "the candidate has no such output"
    if not made.ndim or len(made) != rows:
        return f"shape {made.shape} where {rows} rows are expected"
    return made
