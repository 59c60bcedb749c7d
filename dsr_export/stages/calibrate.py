"""`calibrate`, of an INT8 build: channel factors folded into the graph, codes, scales, and the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dsr_export.declarations.int8_options import Int8Options
from dsr_export.int8.calibrate import CHECKS, MODEL, TABLE, calibrate
from dsr_export.int8.data import open_data
from dsr_export.parity.golden.vectors import MOST_ROWS
from dsr_export.progress import Bar
from dsr_export.sampling import SamplerSpec
from dsr_export.stages.model_at_hand import ModelAtHand
from dsr_export.stages.optimize import Optimized
from dsr_export.stages.stage import Result, Stage
from dsr_export.storage.cache import CachedStage
from dsr_export.subject import SubjectCard
from graphs.artifacts import CalibratedModel

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Calibrated(Result):
    """The graph, the plan of its GEMMs, the table, and a few calls to check a budget with."""

    @property
    def model(self) -> CalibratedModel:
        return CalibratedModel(path=self.folder / MODEL)

    @property
    def table(self) -> Path:
        return self.folder / TABLE

    @property
    def checks(self) -> Path | None:
        """None where a table was given, and nothing was measured."""
        path = self.folder / CHECKS
        return path if path.is_file() else None


@dataclass(frozen=True, kw_only=True)
class Calibrate(Stage[Calibrated]):
    """`options` without their budget, which is for the next stage. `model` is asked for random inputs alone."""

    name: ClassVar[str] = "calibrate"
    source: Optimized
    card: SubjectCard
    sampler: SamplerSpec | None
    options: Int8Options
    model: ModelAtHand

    def work(self, folder: Path, bar: Bar) -> None:
        data = None if self.options.tables else open_data(self.options, self.card, self.sampler, self._example)
        calibrate(self.source.model, self.card, self.options, data, folder, bar)

    def result(self, made: CachedStage) -> Calibrated:
        return Calibrated(made)

    def _example(self, rows: int, seed: int) -> Mapping[str, Array]:
        """The rows that came with the model, and drawn ones."""
        subject = self.model.load()
        drawn, given = subject.example(rows, seed=seed), subject.given
        self.model.unload()
        if not given:
            return drawn
        return {name: np.concatenate([given[name][:MOST_ROWS], values]) for name, values in drawn.items()}
