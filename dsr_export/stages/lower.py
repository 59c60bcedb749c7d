"""`lower`: `dsr` ops become static standard ops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dsr_export.progress import Bar
from dsr_export.stages.stage import FACTS, MODEL, Result, Stage, write_json
from dsr_export.stages.trace import Traced
from dsr_export.storage.cache import CachedStage
from graphs.artifacts import LoweredModel
from graphs.lowering import lower


@dataclass(frozen=True)
class Lowered(Result):
    """Standard ops only; its facts are those of each rewrite."""

    @property
    def model(self) -> LoweredModel:
        return LoweredModel(path=self.folder / MODEL)


@dataclass(frozen=True, kw_only=True)
class LowerGraph(Stage[Lowered]):
    """Finds exactly the sites that the card declares."""

    name: ClassVar[str] = "lower"
    source: Traced

    def work(self, folder: Path, bar: Bar) -> None:
        _, reports = lower(self.source.model, folder / MODEL)
        write_json(folder / FACTS, {report.name: report.as_dict() for report in reports})

    def result(self, made: CachedStage) -> Lowered:
        return Lowered(made)
