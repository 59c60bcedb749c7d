"""`quantize`, of a quantised build: GEMMs in the cheapest formats that the error budget allows, FP16 at last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from dsr_export.int8.budget import Checks
from dsr_export.int8.quantize import quantize
from dsr_export.parity.batch_calls import batches
from dsr_export.parity.golden.vectors import WALKED, Golden
from dsr_export.progress import Bar
from dsr_export.stages.calibrate import Calibrated
from dsr_export.stages.reference import Reference
from dsr_export.stages.stage import FACTS, MODEL, Result, Stage, write_json
from dsr_export.storage.cache import CachedStage
from dsr_export.subject import SubjectCard
from graphs.artifacts import QuantizedModel
from graphs.precisions import Precision

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Quantized(Result):
    """The graph with its quantisers; its facts are the report's section of that name."""

    @property
    def model(self) -> QuantizedModel:
        return QuantizedModel(path=self.folder / MODEL)


@dataclass(frozen=True, kw_only=True)
class Quantize(Stage[Quantized]):
    """`aim_db` is the SNR that the output keeps by its formats, and `held_db` what every check holds it to. What costs
    nothing is taken for `beyond_db` more than the first formats keep. Products are codes `for_engines` alone."""

    name: ClassVar[str] = "quantize"
    source: Calibrated
    card: SubjectCard
    reference: Reference
    precision: Precision
    aim_db: float
    held_db: float
    beyond_db: float
    for_engines: bool

    def work(self, folder: Path, bar: Bar) -> None:
        path = folder / MODEL
        made = self.source.model, self._checks(), self.card, self.precision, self.aim_db
        facts = quantize(*made, path, bar, beyond_db=self.beyond_db, for_engines=self.for_engines)
        write_json(folder / FACTS, {"budget_snr_db": self.held_db, **facts})

    def result(self, made: CachedStage) -> Quantized:
        return Quantized(made)

    def _checks(self) -> Checks:
        """Calls of the calibration, where there was one, the smallest golden case, and rows of the pipeline's walk."""
        golden, measured = self.reference.golden, self.source.checks
        case = golden.cases[min(golden.cases)]
        cases = [(dict(case.inputs), dict(case.outputs)), *_walked(golden)]
        return Checks(cases) if measured is None else Checks.load(measured).with_cases(cases)


def _walked(golden: Golden) -> list[tuple[Mapping[str, Array], Mapping[str, Array]]]:
    """In batches that the model takes; the last one is nearest to the picture."""
    if WALKED not in golden.further:
        return []
    walk = golden.further[WALKED]
    inputs, outputs = batches(walk.inputs, golden.batch), batches(walk.outputs, golden.batch)
    return [(dict(fed), dict(made)) for fed, made in zip(inputs, outputs, strict=True)]
