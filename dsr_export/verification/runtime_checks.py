"""The golden vectors of a bundle through one runtime, or through a graph that lies beside its `model.onnx`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from dsr_export.backends.base import Runner
from dsr_export.backends.opening import bundle_runner, chosen_engine, fused_runner, typed_runner
from dsr_export.backends.runtime_names import Runtime
from dsr_export.bundle.paths import STEP as STEP_FOLDER
from dsr_export.bundle.reader import ENGINE_MODEL, MODEL, RUNTIME_MODEL, Bundle
from dsr_export.parity.checks.fused_step import StepCandidate, check_step
from dsr_export.parity.checks.table import ParityReport, check_parity, fused_rows
from dsr_export.parity.golden.vectors import Golden, fitted_sampler, image_batch
from dsr_export.parity.tolerances import Tolerance
from dsr_export.peak_memory import PeakMemory
from dsr_export.progress import Bar, Reporter
from dsr_export.reports.record import StageTime
from dsr_export.reports.stage_names import ENGINE_GRAPH, RUNTIME_GRAPH, STEP, verified_on
from dsr_export.reports.witness import called, witness_of
from dsr_export.sampling import SamplerSpec
from graphs.sampling.fused_step import step_inputs


@dataclasses.dataclass(frozen=True)
class Stages:
    """Shows each stage, and adds its seconds to a log; `prefix` says of which component they are."""

    reporter: Reporter
    log: list[StageTime] = dataclasses.field(default_factory=list)
    prefix: str = ""

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[Bar]:
        began = time.monotonic()
        with self.reporter.stage(self.prefix + title) as bar, PeakMemory() as memory:
            yield bar
        seconds, name = round(time.monotonic() - began, 3), self.prefix + name
        self.log.append(StageTime(name=name, seconds=seconds, cached=False, peak_rss_bytes=memory.bytes))


def check_runtime(bundle: Bundle, runtime: Runtime, golden: Golden, stages: Stages) -> tuple[str, ParityReport]:
    """The runner's name, and what was found."""
    tolerance = Tolerance.from_dict(bundle.manifest.tolerances)
    sampler = golden_sampler(bundle, golden)
    if runtime == "onnxruntime":  # the portable graph; what is run in its place is checked beside it
        fused = fused_rows(partial(_fused, bundle, MODEL), golden, runtime, tolerance)
        runner = _typed(bundle, MODEL)
    else:
        fused = []
        runner = bundle_runner(bundle, runtime, lambda text: stages.reporter.note(f"{stages.prefix}{text}"))
    said = called(runner.name, witness_of(bundle.manifest.precision))
    with stages.stage(verified_on(runner.name), f"parity ({said})") as bar, runner:
        return runner.name, check_parity(runner, golden, sampler, tolerance, bar, fused=fused)


def check_other_graphs(bundle: Bundle, golden: Golden, stages: Stages) -> dict[str, ParityReport]:
    """The graphs that are there beside `model.onnx`: what ONNX Runtime runs, whose calls are all that differ, and what
    engines are built from. Place in the bundle -> what was found."""
    tolerance, found = Tolerance.from_dict(bundle.manifest.tolerances), {}
    for place, stage in ((RUNTIME_MODEL, RUNTIME_GRAPH), (ENGINE_MODEL, ENGINE_GRAPH)):
        if place not in bundle.graphs:
            continue
        own = place == RUNTIME_MODEL
        fused = fused_rows(partial(_fused, bundle, place), golden, "onnxruntime", tolerance) if own else []
        sampler = None if own else golden_sampler(bundle, golden)
        with stages.stage(stage, f"parity ({place})") as bar, _typed(bundle, place) as runner:
            found[place] = check_parity(runner, golden, sampler, tolerance, bar, fused=fused)
    return found


def check_step_graphs(bundle: Bundle, runtime: Runtime, golden: Golden, stages: Stages) -> dict[str, ParityReport]:
    """What holds a whole step of the sampler, through that runtime: its place in the bundle -> what was found."""
    if bundle.step_graph is None or golden_sampler(bundle, golden) is None:
        return {}
    found = {}
    for place, runner in _step_runners(bundle, runtime).items():
        with stages.stage(STEP, f"parity ({place})") as bar, runner:
            found[place] = check_step(step_candidate(bundle, runner, golden), bar)
    return found


def step_candidate(bundle: Bundle, runner: Runner, golden: Golden) -> StepCandidate:
    """A runner of a whole sampler step, and what the bundle holds it to."""
    sampler = golden_sampler(bundle, golden)
    assert sampler is not None  # no bundle has a step without
    return StepCandidate(
        runner=runner,
        golden=golden,
        sampler=sampler,
        images=image_batch(bundle.manifest.batch_range(), sampler),
        tolerance=Tolerance.from_dict(bundle.manifest.tolerances),
    )


def _step_runners(bundle: Bundle, runtime: Runtime) -> dict[str, Runner]:
    """In ONNX Runtime on the CPU every graph; else what the runtime runs."""
    engine = chosen_engine(bundle, runtime)
    if runtime != "onnxruntime":
        place = f"{STEP_FOLDER}{MODEL if engine is None else engine.engine}"
        return {place: bundle_runner(bundle, runtime, step=True)}
    inputs, precision = step_inputs(bundle.manifest.input_specs()), bundle.manifest.precision
    graphs = [name for name in bundle.graphs if name.startswith(STEP_FOLDER)]
    return {name: typed_runner(bundle.file(name), inputs, precision) for name in graphs}


def _typed(bundle: Bundle, graph: str) -> Runner:
    return typed_runner(bundle.file(graph), bundle.manifest.input_specs(), bundle.manifest.precision)


def _fused(bundle: Bundle, graph: str) -> Runner | None:
    return fused_runner(bundle.file(graph), bundle.manifest.input_specs(), bundle.manifest.precision)


def golden_sampler(bundle: Bundle, golden: Golden) -> SamplerSpec | None:
    """The sampler that the golden trajectory was made with."""
    sampler = bundle.manifest.sampler_spec()
    if sampler is None or golden.trajectory is None:
        return None
    steps = dataclasses.replace(sampler, num_steps=len(golden.trajectory.states) + 1)
    return fitted_sampler(steps, bundle.manifest.batch_range())
