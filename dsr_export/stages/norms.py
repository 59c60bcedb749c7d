"""`norms`: token norms around the replacement sites, for the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dsr_export.progress import Bar
from dsr_export.sites.token_norms import measure_token_norms
from dsr_export.stages.optimize import Optimized
from dsr_export.stages.reference import Reference
from dsr_export.stages.stage import FACTS, Result, Stage, write_json
from dsr_export.storage.cache import CachedStage
from dsr_export.subject import SubjectCard


@dataclass(frozen=True)
class Norms(Result):
    """Its facts are the report's `token_norms`; null where there are no sites."""


@dataclass(frozen=True, kw_only=True)
class MeasureNorms(Stage[Norms]):
    """On one golden case, in FP32."""

    name: ClassVar[str] = "norms"
    source: Optimized
    card: SubjectCard
    reference: Reference

    def work(self, folder: Path, bar: Bar) -> None:
        write_json(folder / FACTS, measure_token_norms(self.source.model, self.card, self.reference.golden, folder))

    def result(self, made: CachedStage) -> Norms:
        return Norms(made)
