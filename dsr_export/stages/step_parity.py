"""`parity-step` and `parity-step-engine`: what holds a whole step of the sampler, against the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dsr_export.backends.opening import new_engine_runner, typed_runner
from dsr_export.config import BatchRange
from dsr_export.progress import Bar
from dsr_export.reports.stage_names import STEP, STEP_ENGINE
from dsr_export.stages.engine import Engine
from dsr_export.stages.parity import Comparison, Judged
from dsr_export.stages.stage import FACTS, Stage, write_json
from dsr_export.stages.type_graph import Typed
from dsr_export.storage.cache import CachedStage
from graphs.sampling.fused_step import step_inputs
from graphs.targets import Target


@dataclass(frozen=True, kw_only=True)
class CheckStep(Stage[Judged]):
    """ONNX Runtime on the graph, node by node."""

    name: ClassVar[str] = STEP
    source: Typed
    comparison: Comparison
    images: BatchRange

    def work(self, folder: Path, bar: Bar) -> None:
        inputs = step_inputs(self.comparison.card.inputs)
        runner = typed_runner(self.source.model.path, inputs, self.source.precision)
        write_json(folder / FACTS, self.comparison.of_step(runner, self.images, bar))

    def result(self, made: CachedStage) -> Judged:
        return Judged(made)


@dataclass(frozen=True, kw_only=True)
class CheckStepEngine(Stage[Judged]):
    """The engine, where a GPU is."""

    name: ClassVar[str] = STEP_ENGINE
    source: Engine
    comparison: Comparison
    images: BatchRange
    target: Target
    on: Mapping[str, str | None]

    def work(self, folder: Path, bar: Bar) -> None:
        inputs = step_inputs(self.comparison.card.inputs)
        runner = new_engine_runner(self.source.plan, self.target, self.source.facts, inputs)
        write_json(folder / FACTS, self.comparison.of_step(runner, self.images, bar))

    def result(self, made: CachedStage) -> Judged:
        return Judged(made)
