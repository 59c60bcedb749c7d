"""`engine`: a TensorRT engine of the typed graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dsr_export.backends.gpu import compute_capability
from dsr_export.backends.tensorrt.engine_fit import platform_facts
from dsr_export.config import BatchRange
from dsr_export.progress import Bar
from dsr_export.stages.stage import FACTS, Result, Stage, write_json
from dsr_export.stages.type_graph import Typed
from dsr_export.storage.cache import CachedStage
from dsr_export.subject import SubjectCard
from graphs.targets import Target

PLAN = "engine.plan"


@dataclass(frozen=True)
class Engine(Result):
    """The plan and what its builder tells of it."""

    @property
    def plan(self) -> Path:
        return self.folder / PLAN


def machine(target: Target) -> dict[str, str | None]:
    """What an engine depends on beside its graph: a cache that is shared, or older than the GPU, must not serve it."""
    return {**platform_facts(), "gpu": compute_capability() if target.needs_gpu_to_build else None}


def this_gpu() -> dict[str, str | None]:
    """What the numbers of a GPU's own kernels depend on."""
    return {**platform_facts(), "gpu": compute_capability()}


@dataclass(frozen=True, kw_only=True)
class CompileEngine(Stage[Engine]):
    """Builds for one target."""

    name: ClassVar[str] = "engine"
    source: Typed
    card: SubjectCard
    target: Target
    batch: BatchRange
    on: Mapping[str, str | None]

    def work(self, folder: Path, bar: Bar) -> None:
        from dsr_export.backends.tensorrt.build import build_engine

        engine = build_engine(self.source.model.path, self.target, batch=self.batch, inputs=self.card.inputs)
        (folder / PLAN).write_bytes(engine.plan)
        write_json(folder / FACTS, engine.facts)

    def result(self, made: CachedStage) -> Engine:
        return Engine(made)
