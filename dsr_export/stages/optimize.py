"""`optimize`: constants folded, nodes fused; the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dsr_export.progress import Bar
from dsr_export.stages.lower import Lowered
from dsr_export.stages.stage import FACTS, MODEL, Result, Stage, write_json
from dsr_export.storage.cache import CachedStage
from graphs.artifacts import OptimizedModel
from graphs.lowering import optimize


@dataclass(frozen=True)
class Optimized(Result):
    """The graph that every check of FP32 runs; its facts are those of each rewrite."""

    @property
    def model(self) -> OptimizedModel:
        return OptimizedModel(path=self.folder / MODEL)


@dataclass(frozen=True, kw_only=True)
class OptimizeGraph(Stage[Optimized]):
    """Applies the optimisations wherever they match."""

    name: ClassVar[str] = "optimize"
    source: Lowered

    def work(self, folder: Path, bar: Bar) -> None:
        _, reports = optimize(self.source.model, folder / MODEL)
        write_json(folder / FACTS, {report.name: report.as_dict() for report in reports})

    def result(self, made: CachedStage) -> Optimized:
        return Optimized(made)
