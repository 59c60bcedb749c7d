"""`taps`: what the FP32 reference makes at every site of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dsr_export.config import BatchRange
from dsr_export.progress import Bar
from dsr_export.sites.reference import make_taps
from dsr_export.stages.optimize import Optimized
from dsr_export.stages.reference import Reference
from dsr_export.stages.stage import Result, Stage
from dsr_export.storage.cache import CachedStage
from dsr_export.subject import SubjectCard

TAPS = "taps.npz"


@dataclass(frozen=True)
class SiteTaps(Result):
    """The file that candidates are compared with, site by site."""

    @property
    def taps(self) -> Path:
        return self.folder / TAPS


@dataclass(frozen=True, kw_only=True)
class MakeTaps(Stage[SiteTaps]):
    """PyTorch's values wherever a module returns them, the FP32 graph's elsewhere."""

    name: ClassVar[str] = "taps"
    source: Optimized
    reference: Reference
    card: SubjectCard
    batch: BatchRange

    def work(self, folder: Path, bar: Bar) -> None:
        taps = make_taps(self.source.model, self.reference.folder, self.card, self.batch)
        taps.save(folder / TAPS)

    def result(self, made: CachedStage) -> SiteTaps:
        return SiteTaps(made)
