"""`calibrate`, of a quantised build: channel factors folded into the graph, codes, scales, and the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from calibration.collect import CalibrationData
from dsr_export.declarations.calibration_part import Part
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.int8.calibrate import CHECKS, MODEL, TABLE, calibrate
from dsr_export.int8.data import open_data
from dsr_export.int8.made_for import check_made_for, checked_parts, made_by
from dsr_export.int8.measure import Measured, ObservedGraph
from dsr_export.int8.parts import joined_parts
from dsr_export.int8.pipeline_data import PipelineWalks
from dsr_export.parity.golden.vectors import MOST_ROWS
from dsr_export.progress import Bar
from dsr_export.sampling import SamplerSpec
from dsr_export.stages.model_at_hand import ModelAtHand
from dsr_export.stages.optimize import Optimized
from dsr_export.stages.stage import Result, Stage
from dsr_export.storage.cache import CachedStage
from dsr_export.subject import SubjectCard
from dsr_export.walks.asked import PipelineWalk
from graphs.artifacts import CalibratedModel
from graphs.precisions import Precision
from graphs.quantize.schemes import scheme_of

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
    """`options` without their budget, which is for the next stage. `model` is asked for random inputs alone; `walk` is
    the pipeline's, where the data are its own calls."""

    name: ClassVar[str] = "calibrate"
    source: Optimized
    card: SubjectCard
    sampler: SamplerSpec | None
    options: Int8Options
    precision: Precision
    model: ModelAtHand
    walk: PipelineWalk | None

    def work(self, folder: Path, bar: Bar) -> None:
        def measure(observed: ObservedGraph) -> Measured:
            if self.options.parts:
                return joined_parts(observed, self._parts(), bar)
            return observed.measured(self.data(), folder, bar)

        given = None if self.options.tables else measure
        calibrate(
            self.source.model,
            self.card,
            self.options,
            scheme_of(self.precision, self.options.rank),
            given,
            folder,
            bar,
            told={} if self.walk is None else self.walk.told(self.card),
        )

    def data(self) -> CalibrationData:
        """What is walked. ExportError as `open_data`."""
        if self.walk is not None:
            return PipelineWalks(self.walk, self.card)
        return open_data(self.options, self.card, self.sampler, self._example)

    def made_for(self) -> dict[str, Any]:
        """JSON values: everything that statistics depend on, alike in all shares of one calibration."""
        return {**replace(self, options=self.options.of_data()).key(), "by": made_by()}

    def _parts(self) -> list[Part]:
        """All shares. ExportError where one was measured for anything else."""
        parts, wanted = checked_parts(self.options.parts), self.made_for()
        for part in parts:
            check_made_for(part, wanted)
        return parts

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
