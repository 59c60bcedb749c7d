"""`quantize`, of an INT8 build: INT8 GEMMs, but for those that the error budget leaves in FP16."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dsr_export.int8.budget import Checks
from dsr_export.int8.quantize import quantize
from dsr_export.progress import Bar
from dsr_export.stages.calibrate import Calibrated
from dsr_export.stages.reference import Reference
from dsr_export.stages.stage import FACTS, MODEL, Result, Stage, write_json
from dsr_export.storage.cache import CachedStage
from dsr_export.subject import SubjectCard
from graphs.artifacts import QuantizedModel


@dataclass(frozen=True)
class Quantized(Result):
    """The graph with its quantisers; its facts are the report's `int8`."""

    @property
    def model(self) -> QuantizedModel:
        return QuantizedModel(path=self.folder / MODEL)


@dataclass(frozen=True, kw_only=True)
class Quantize(Stage[Quantized]):
    """`budget_db` is the SNR that the output keeps."""

    name: ClassVar[str] = "quantize"
    source: Calibrated
    card: SubjectCard
    reference: Reference
    budget_db: float

    def work(self, folder: Path, bar: Bar) -> None:
        facts = quantize(self.source.model, self._checks(), self.card, self.budget_db, folder / MODEL, bar)
        write_json(folder / FACTS, facts)

    def result(self, made: CachedStage) -> Quantized:
        return Quantized(made)

    def _checks(self) -> Checks:
        """Calls of the calibration, where there was one, and the smallest golden case."""
        golden, measured = self.reference.golden, self.source.checks
        case = golden.cases[min(golden.cases)]
        first = [(dict(case.inputs), dict(case.outputs))]
        return Checks(first) if measured is None else Checks.load(measured).with_cases(first)
