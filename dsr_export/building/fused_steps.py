"""`--fuse-step`: the graphs and engines of a build that hold a whole step of the sampler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from dsr_export.building.build import Build
from dsr_export.building.finished import FusedSteps
from dsr_export.bundle.paths import step_plan_path
from dsr_export.config import BatchRange
from dsr_export.errors import ExportError
from dsr_export.parity.golden.vectors import image_batch
from dsr_export.sampling import SamplerSpec
from dsr_export.stages.engine import CompileEngine, machine, this_gpu
from dsr_export.stages.fuse_step import FuseStep
from dsr_export.stages.parity import Comparison, Judged
from dsr_export.stages.step_parity import CheckStep, CheckStepEngine
from dsr_export.stages.type_graph import Typed
from dsr_export.subject import SubjectCard
from graphs.forms import FormName, form_of
from graphs.sampling.fused_step import step_inputs


@dataclass(frozen=True)
class Fusing:
    """What makes a step of a model: its sampler, what the step takes, and in which batches."""

    sampler: SamplerSpec
    card: SubjectCard
    images: BatchRange


def fusing_of(build: Build, card: SubjectCard, sampler: SamplerSpec | None) -> Fusing:
    """Before the work begins. ExportError for a model that has no step, and for batches that hold none."""
    if sampler is None:
        raise ExportError("--fuse-step: the model has no sampler", hint="build it without; denoisers have one")
    images = image_batch(build.config.batch, sampler)
    return Fusing(sampler, replace(card, inputs=step_inputs(card.inputs)), images)


def fused_steps(build: Build, of: Fusing, typed: Mapping[FormName, Typed]) -> FusedSteps:
    """Graphs and engines that hold a whole step of the sampler."""
    fused = {form: build.run(FuseStep(source=each, sampler=of.sampler)) for form, each in typed.items()}
    engines = {
        each.name: build.run(
            CompileEngine(source=fused[form_of(each)], card=of.card, target=each, batch=of.images, on=machine(each))
        )
        for each in build.engine_targets
    }
    return FusedSteps(typed=fused, engines=engines, images=of.images)


def compared_steps(build: Build, steps: FusedSteps, held: Comparison) -> Iterator[tuple[str | None, Judged]]:
    """Each graph, and each engine that the GPU at hand runs, with its place in the bundle."""
    for path, graph in steps.graphs.items():
        yield path, build.run(CheckStep(source=graph, comparison=held, images=steps.images))
    for each in build.runnable_targets:
        engine = steps.engines[each.name]
        checked = CheckStepEngine(source=engine, comparison=held, images=steps.images, target=each, on=this_gpu())
        yield step_plan_path(each.name), build.run(checked)
