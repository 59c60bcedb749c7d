"""`reference`: golden vectors from the FP32 model, and what its modules return inside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from dsr_export.config import BatchRange
from dsr_export.parity.finite import check_reference
from dsr_export.parity.golden.vectors import Golden, make_golden
from dsr_export.progress import Bar
from dsr_export.sampling import SamplerSpec
from dsr_export.sites.reference import record_reference
from dsr_export.stages.model_at_hand import ModelAtHand
from dsr_export.stages.stage import FACTS, Result, Stage, write_json
from dsr_export.storage.cache import CachedStage
from dsr_export.walks.asked import PipelineWalk
from dsr_export.walks.rows import walked_rows

GOLDEN = "golden.npz"


@dataclass(frozen=True)
class Reference(Result):
    """What every candidate is compared with; its facts: how many rows it has no steady answer for."""

    @cached_property
    def golden(self) -> Golden:
        with np.load(self.folder / GOLDEN, allow_pickle=False) as arrays:
            return Golden.from_arrays(dict(arrays))


@dataclass(frozen=True, kw_only=True)
class MakeReference(Stage[Reference]):
    """Runs the model at each batch size, over its sampler's trajectory, where it has one, and its pipeline's `walk`."""

    name: ClassVar[str] = "reference"
    model: ModelAtHand
    batch: BatchRange
    sampler: SamplerSpec | None
    walk: PipelineWalk | None

    def work(self, folder: Path, bar: Bar) -> None:
        subject = self.model.load()
        with subject.reference() as runner:
            walked = None if self.walk is None else walked_rows(self.walk, subject.card(), runner, self.batch)
            golden = make_golden(subject, runner, batch=self.batch, sampler=self.sampler, progress=bar, walked=walked)
        check_reference(golden)
        golden.save(folder / GOLDEN)
        write_json(folder / FACTS, {"tried": golden.tried, "left_out": golden.left_out})
        record_reference(subject, golden, self.sampler, self.batch, folder)

    def result(self, made: CachedStage) -> Reference:
        return Reference(made)
