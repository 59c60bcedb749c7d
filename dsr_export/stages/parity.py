"""`parity`, `parity-cuda` and `parity-engine`: the typed graph, on a GPU too, and an engine, against the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from dsr_export.backends.base import Runner
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.backends.opening import cuda_runner, fused_runner, new_engine_runner, typed_runner
from dsr_export.config import BatchRange
from dsr_export.parity.checks.fused_step import StepCandidate, check_step
from dsr_export.parity.checks.table import check_parity, fused_rows
from dsr_export.parity.rows import ParityRow
from dsr_export.parity.tolerances import Tolerance
from dsr_export.progress import Bar
from dsr_export.reports.sample_strips import golden_strips
from dsr_export.reports.stage_names import CUDA, ENGINE, GRAPH, RUNTIME_GRAPH
from dsr_export.sampling import SamplerSpec
from dsr_export.sites.reference import check_sites
from dsr_export.stages.engine import Engine
from dsr_export.stages.reference import Reference
from dsr_export.stages.stage import FACTS, Result, Stage, write_json
from dsr_export.stages.taps import SiteTaps
from dsr_export.stages.type_graph import Typed
from dsr_export.storage.cache import CachedStage
from dsr_export.subject import SubjectCard
from graphs.targets import Target


@dataclass(frozen=True)
class Judged(Result):
    """Its facts are rows, images and the verdict of one candidate."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What every candidate of one build is held to."""

    card: SubjectCard
    reference: Reference
    sampler: SamplerSpec | None
    tolerance: Tolerance

    def of(self, runner: Runner, bar: Bar, fused: Sequence[ParityRow] = ()) -> dict[str, Any]:
        """The candidate behind `runner`, which is closed afterwards, as plain values."""
        golden = self.reference.golden
        with runner:
            report = check_parity(runner, golden, self.sampler, self.tolerance, bar, fused=fused)
        return {**report.as_dict(), "samples": golden_strips(golden, report.sample, runtime=runner.name)}

    def of_step(self, runner: Runner, images: BatchRange, bar: Bar) -> dict[str, Any]:
        """The same of a runner that takes a whole step of the sampler, for batches of `images`."""
        assert self.sampler is not None  # nothing has a step without one
        golden, tolerance = self.reference.golden, self.tolerance
        held = StepCandidate(runner=runner, golden=golden, sampler=self.sampler, images=images, tolerance=tolerance)
        with runner:
            return {**check_step(held, bar).as_dict(), "samples": []}


@dataclass(frozen=True, kw_only=True)
class CheckGraph(Stage[Judged]):
    """ONNX Runtime on the typed graph, and the error at each of its sites."""

    name: ClassVar[str] = GRAPH
    source: Typed
    comparison: Comparison
    taps: SiteTaps
    batch: BatchRange

    def work(self, folder: Path, bar: Bar) -> None:
        card, precision, model = self.comparison.card, self.source.precision, self.source.model.path
        opening = partial(fused_runner, model, card.inputs, precision)
        golden, tolerance = self.comparison.reference.golden, self.comparison.tolerance
        fused = fused_rows(opening, golden, OnnxRuntimeRunner.name, tolerance)
        report = self.comparison.of(typed_runner(model, card.inputs, precision), bar, fused)
        passed = bool(report["passed"])
        sites = check_sites(self.taps.taps, model, card, precision, self.batch, passed=passed)
        write_json(folder / FACTS, report | sites)

    def result(self, made: CachedStage) -> Judged:
        return Judged(made)


@dataclass(frozen=True, kw_only=True)
class CheckRuntimeGraph(Stage[Judged]):
    """What ONNX Runtime runs in the place of the typed graph: single calls, since the trajectory of those is walked."""

    name: ClassVar[str] = RUNTIME_GRAPH
    source: Typed
    comparison: Comparison

    def work(self, folder: Path, bar: Bar) -> None:
        held, precision, model = replace(self.comparison, sampler=None), self.source.precision, self.source.model.path
        inputs, name = held.card.inputs, OnnxRuntimeRunner.name
        opening = partial(fused_runner, model, inputs, precision)
        fused = fused_rows(opening, held.reference.golden, name, held.tolerance)
        write_json(folder / FACTS, held.of(typed_runner(model, inputs, precision), bar, fused))

    def result(self, made: CachedStage) -> Judged:
        return Judged(made)


@dataclass(frozen=True, kw_only=True)
class CheckCuda(Stage[Judged]):
    """What ONNX Runtime runs, in its CUDA kernels, where a GPU is: half arithmetic is real there."""

    name: ClassVar[str] = CUDA
    source: Typed
    comparison: Comparison
    on: Mapping[str, str | None]

    def work(self, folder: Path, bar: Bar) -> None:
        runner = cuda_runner(self.source.model.path, self.comparison.card.inputs)
        write_json(folder / FACTS, self.comparison.of(runner, bar))

    def result(self, made: CachedStage) -> Judged:
        return Judged(made)


@dataclass(frozen=True, kw_only=True)
class CheckEngine(Stage[Judged]):
    """The compiled engine, where a GPU is."""

    name: ClassVar[str] = ENGINE
    source: Engine
    comparison: Comparison
    target: Target
    on: Mapping[str, str | None]

    def work(self, folder: Path, bar: Bar) -> None:
        inputs = self.comparison.card.inputs
        runner = new_engine_runner(self.source.plan, self.target, self.source.facts, inputs)
        write_json(folder / FACTS, self.comparison.of(runner, bar))

    def result(self, made: CachedStage) -> Judged:
        return Judged(made)
