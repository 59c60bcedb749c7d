"""The table of comparisons that the build, `verify` and the pytest plugin walk.

A new one is an entry here, with its two functions beside the others of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn

import numpy.typing as npt

from dsr_export.backends.base import Runner
from dsr_export.errors import RunnerError
from dsr_export.parity.candidate import Candidate, Pair, Plan
from dsr_export.parity.checks import batches, further, repeats
from dsr_export.parity.checks.pictures import PictureRow
from dsr_export.parity.golden.vectors import FURTHER, Golden
from dsr_export.parity.metrics import Comparison
from dsr_export.parity.rows import ParityRow
from dsr_export.parity.tolerances import Tolerance
from dsr_export.sampling import SamplerSpec

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]
Opening = Callable[[], Runner | None]
TRAJECTORY: Pair = ("trajectory", "sample")


@dataclass(frozen=True, kw_only=True)
class ParityCheck:
    """One kind of comparison.

    `planned` names its rows before anything is run, none where it does not apply; `compare` finds one result for each
    of them, in their order. `reference` and `tolerance` are what all of them are held to. The rows of a `fused` check
    are made by the runtime's own kernels, all others by those that `typed_runner` or an engine has. `stored` names the
    checks that rest on vectors of their own in golden.npz, given its batch sizes: without those there is no such row.
    """

    planned: Callable[[Plan], Sequence[Pair]]
    compare: Callable[[Candidate], Iterable[Comparison]]
    reference: Callable[[Candidate], str] = lambda candidate: candidate.golden.reference
    tolerance: Callable[[Candidate], Tolerance] = lambda candidate: candidate.tolerance
    fused: bool = False
    stored: Callable[[Iterable[int]], Iterable[str]] = lambda sizes: ()

    def rows(self, candidate: Candidate) -> Iterator[ParityRow]:
        """As planned, with what was found."""
        pairs = self.planned(candidate)
        if not pairs:
            return
        reference, tolerance, runtime = self.reference(candidate), self.tolerance(candidate), candidate.runner.name
        for (check, output), found in zip(pairs, self.compare(candidate), strict=True):
            yield ParityRow.of(check, output, runtime, reference, found, tolerance)


def _trajectory(plan: Plan) -> list[Pair]:
    return [] if plan.sampler is None or plan.golden.trajectory is None else [TRAJECTORY]


def _check_trajectory(candidate: Candidate) -> list[Comparison]:
    return [] if candidate.walk is None else [candidate.walk.last]


CHECKS: tuple[ParityCheck, ...] = (
    ParityCheck(planned=batches.fused, compare=batches.check_fused, fused=True),
    ParityCheck(planned=batches.golden_batches, compare=batches.check_golden_batches, stored=batches.batch_names),
    ParityCheck(planned=batches.between, compare=batches.check_between),
    ParityCheck(planned=further.further_rows, compare=further.check_further, stored=lambda sizes: FURTHER),
    ParityCheck(
        planned=repeats.equal_rows,
        compare=repeats.check_equal_rows,
        reference=repeats.repeated_row,
        tolerance=repeats.stricter,
    ),
    ParityCheck(
        planned=repeats.same_batch,
        compare=repeats.check_same_batch,
        reference=repeats.itself,
        tolerance=repeats.stricter,
    ),
    ParityCheck(
        planned=repeats.alone,
        compare=repeats.check_alone,
        reference=repeats.itself,
        tolerance=repeats.alone_tolerance,
    ),
    ParityCheck(planned=_trajectory, compare=_check_trajectory, stored=lambda sizes: TRAJECTORY[:1]),
)
"""In the order of a report."""


def planned_rows(plan: Plan, *, fused: bool) -> list[Pair]:
    """Check and output of every row that a candidate gets; with those of `fused_rows` where it has such kernels."""
    return [pair for check in CHECKS if fused or not check.fused for pair in check.planned(plan)]


def stored_checks(sizes: Iterable[int]) -> frozenset[str]:
    """The checks that rest on vectors of their own in golden.npz, where it holds batches of these sizes."""
    held = tuple(sizes)
    return frozenset(name for check in CHECKS for name in check.stored(held))


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
    """Every check of the table that applies; of a denoiser, the whole trajectory and its pictures as well.

    `fused` are the rows of the same model in the runtime's own kernels (`fused_rows`): part of the verdict.
    """
    candidate = Candidate(runner=runner, golden=golden, sampler=sampler, tolerance=tolerance, progress=progress)
    rows = (*fused, *(row for check in CHECKS if not check.fused for row in check.rows(candidate)))
    walk = candidate.walk
    if walk is None:
        return ParityReport(rows)
    return ParityReport(rows, tuple(walk.growth), tuple(walk.pictures(runner.name, tolerance)), walk.sample)


def fused_rows(opening: Opening, golden: Golden, runtime: str, tolerance: Tolerance) -> list[ParityRow]:
    """What the kernels that users get make of the smallest batch; none where `opening` has no such runner.

    It is closed before another runner is opened: two copies of a large model's weights may not fit.
    """
    try:
        opened = opening()
    except RunnerError as error:  # what cannot be opened is a failed check, with its reason in the report
        opened = _Unopened(runtime, error)
    if opened is None:
        return []
    with opened as runner:
        fused = Candidate(runner=runner, golden=golden, sampler=None, tolerance=tolerance, progress=lambda _, __: None)
        return [row for check in CHECKS if check.fused for row in check.rows(fused)]


@dataclass
class _Unopened:
    """In place of a runner that does not open: every call fails with the reason."""

    name: str
    error: RunnerError

    def __enter__(self) -> _Unopened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def infer(self, inputs: dict[str, Array]) -> NoReturn:
        raise self.error
