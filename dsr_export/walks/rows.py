"""Rows of a pipeline's own walk, to hold a quantised transformer against: of other noise than it is calibrated on."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import Runner
from dsr_export.config import BatchRange
from dsr_export.parity.batch_calls import in_batches
from dsr_export.progress import Silent
from dsr_export.subject import SubjectCard
from dsr_export.walks.asked import PipelineWalk
from dsr_export.walks.torch_pipeline import Transformer, torch_pipeline

Rows = dict[str, npt.NDArray[Any]]
PLACES = 3
"""Steps that rows are kept of: the first, the last, and one between."""


def walked_rows(walk: PipelineWalk, card: SubjectCard, runner: Runner, batch: BatchRange) -> Rows:
    """The inputs by name [n, ...] of some steps of a walk, which `runner` answers in batches that `batch` allows.

    Raises ExportError where the model makes NaN, or the pipeline can't be walked.
    """
    images, kept = walk.held_out(card), _Kept(runner, batch)
    everyone = Transformer(described=card, opened=lambda: kept, rows=2 * images.count)
    with torch_pipeline(walk.plan, walk.request, everyone, images.prompts, Silent()) as pipeline:
        for _ in pipeline.walk(images.wish(pipeline.recipe, range(images.count))):
            pass
    return kept.rows()


class _Kept:
    """A runner that stays open, and keeps what it was given."""

    def __init__(self, runner: Runner, batch: BatchRange) -> None:
        self.name, self._runner, self._batch = runner.name, runner, batch
        self._calls: list[Rows] = []

    def __enter__(self) -> _Kept:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def infer(self, inputs: Rows) -> Rows:
        """As `Runner.infer`, for any number of rows."""
        self._calls.append(inputs)
        return in_batches(self._runner.infer, inputs, self._batch)

    def rows(self) -> Rows:
        """Of all calls that are kept."""
        chosen = [self._calls[i] for i in np.unique(np.linspace(0, len(self._calls) - 1, PLACES).astype(int))]
        return {name: np.concatenate([call[name] for call in chosen]) for name in chosen[0]}
