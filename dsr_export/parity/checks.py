"""The checks a bundle must pass, each a function over a runner and the golden vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import Runner, as_denoiser
from dsr_export.errors import ExportError
from dsr_export.parity.golden import Golden, ReferenceTrajectory
from dsr_export.parity.metrics import IDENTICAL_DB, Comparison, compare
from dsr_export.parity.tolerances import Tolerance
from dsr_export.sampling import SamplerSpec, trajectory

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]
ROW_MARGIN_DB = 20.0  # equal rows run the same arithmetic and may differ by its order only


@dataclass(frozen=True, kw_only=True)
class ParityRow:
    """One comparison and its verdict. `check` is `batch-N`, `rows` or `trajectory`."""

    check: str
    output: str
    runtime: str
    reference: str
    comparison: Comparison
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        return self.comparison.within(self.tolerance)

    def as_dict(self) -> dict[str, Any]:
        figures = self.comparison.as_dict()
        names = {"check": self.check, "output": self.output, "runtime": self.runtime, "reference": self.reference}
        return {**names, **figures, "tolerance": self.tolerance.as_dict(), "passed": self.passed}


@dataclass(frozen=True)
class ParityReport:
    """All rows of one candidate, and the error of its trajectory after each step (SNR in dB).

    `sample` is the candidate's own last state [n, C, H, W]; None where it has no trajectory or did not finish it.
    """

    rows: tuple[ParityRow, ...]
    trajectory_snr_db: tuple[float, ...] = ()
    sample: Array | None = field(default=None, compare=False)

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row.passed for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        rows = [row.as_dict() for row in self.rows]
        return {"passed": self.passed, "rows": rows, "trajectory_snr_db": list(self.trajectory_snr_db)}


def check_parity(
    runner: Runner, golden: Golden, sampler: SamplerSpec | None, tolerance: Tolerance, progress: Progress
) -> ParityReport:
    """Every golden batch, row equivariance, and the whole trajectory where the model has one."""
    rows = [row for size in golden.cases for row in _check_batch(runner, golden, size, tolerance)]
    rows += _check_rows(runner, golden, tolerance)
    if sampler is None or golden.trajectory is None:
        return ParityReport(tuple(rows))
    last, growth, sample = _check_trajectory(runner, golden.trajectory, sampler, progress)
    rows.append(_row("trajectory", "sample", runner.name, golden.reference, last, tolerance))
    return ParityReport(tuple(rows), growth, sample)


def _check_batch(runner: Runner, golden: Golden, size: int, tolerance: Tolerance) -> list[ParityRow]:
    case = golden.cases[size]
    outputs = _outputs(runner, case.inputs, case.outputs)
    return [
        _row(f"batch-{size}", name, runner.name, golden.reference, _judge(truth, outputs[name]), tolerance)
        for name, truth in case.outputs.items()
    ]


def _check_rows(runner: Runner, golden: Golden, tolerance: Tolerance) -> list[ParityRow]:
    """Equal rows must give equal rows: at the largest batch, all rows against the first."""
    size = max(golden.cases)
    same = {name: np.repeat(value[:1], size, axis=0) for name, value in golden.cases[size].inputs.items()}
    margin = ROW_MARGIN_DB
    strict = replace(tolerance, psnr_db=tolerance.psnr_db + margin, snr_db=tolerance.snr_db + margin)
    rows = []
    for name, got in _outputs(runner, same, golden.cases[size].outputs).items():
        first = got if isinstance(got, str) else np.repeat(got[:1], size, axis=0)
        comparison = Comparison(problem=first) if isinstance(first, str) else _judge(first, got)
        rows.append(_row("rows", name, runner.name, "row 0", comparison, strict))
    return rows


def _check_trajectory(
    runner: Runner, walk: ReferenceTrajectory, sampler: SamplerSpec, progress: Progress
) -> tuple[Comparison, tuple[float, ...], Array | None]:
    growth: list[float] = []
    state: Array | None = None
    last = Comparison(problem="the trajectory has no steps")
    try:
        for step in trajectory(as_denoiser(runner), sampler, walk.noise, walk.labels):
            state = step.state
            last = compare(walk.states[step.index], state)
            growth.append(-IDENTICAL_DB if last.snr_db is None else last.snr_db)
            progress(step.index + 1, len(walk.states))
    except ExportError as error:  # a failing runtime is a failed check, with its reason in the report
        last, state = Comparison(problem=error.message), None
    return last, tuple(growth), state


def _outputs(runner: Runner, inputs: Mapping[str, Array], names: Iterable[str]) -> dict[str, Array | str]:
    """What the runner makes of `inputs`; in place of a missing output, or of all where the call fails, the reason."""
    try:
        made = runner.infer(dict(inputs))
    except ExportError as error:
        return dict.fromkeys(names, error.message)
    return {name: made.get(name, "the candidate has no such output") for name in names}


def _judge(truth: Array, candidate: Array | str) -> Comparison:
    return Comparison(problem=candidate) if isinstance(candidate, str) else compare(truth, candidate)


def _row(
    check: str, output: str, runtime: str, reference: str, comparison: Comparison, tolerance: Tolerance
) -> ParityRow:
    return ParityRow(
        check=check, output=output, runtime=runtime, reference=reference, comparison=comparison, tolerance=tolerance
    )
