"""One build: its options resolved, its key, and the log of its stages."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from dsr_export.backends.gpu import compute_capability, gpu_available
from dsr_export.backends.installation import check_buildable
from dsr_export.backends.opening import runs_here
from dsr_export.building.held_walk import held_walk
from dsr_export.building.part_configs import part_configs
from dsr_export.bundle.destination import LONGEST_NAME, absolute, parts_folder
from dsr_export.bundle.reader import Bundle
from dsr_export.config import ExportConfig, ModelRequest
from dsr_export.drawing.chain import open_components
from dsr_export.peak_memory import PeakMemory
from dsr_export.pipelines.folder import TRANSFORMER
from dsr_export.pipelines.plan import PipelinePlan, plan_pipeline
from dsr_export.progress import Bar, Reporter
from dsr_export.reports.record import StageTime
from dsr_export.sources import Source, find_source
from dsr_export.stages.model_at_hand import ModelAtHand
from dsr_export.stages.stage import Result, Stage, stage_key
from dsr_export.storage.cache import CachedStage, StageCache
from dsr_export.storage.canonical import canonical_digest
from dsr_export.storage.disk import DamagedFile
from dsr_export.storage.made_with import source_digest, tool_versions
from dsr_export.walks.asked import PipelineWalk, pipeline_walk
from graphs.forms import FORMS, FormName, form_of
from graphs.precisions import PRECISIONS
from graphs.target_precisions import check_precision
from graphs.targets import Target, default_target, target

R = TypeVar("R", bound=Result)


@dataclass
class Build:
    """Options of one build and what is derived from them. `log` and `used` grow by one entry per stage.

    `parts` are the bundles of a pipeline's other models, while they are there. `known` is what files were found to
    hold, by what names them: builds that share it read each once.
    """

    config: ExportConfig
    reporter: Reporter
    parts: Mapping[str, Bundle] = field(default_factory=dict)
    log: list[StageTime] = field(default_factory=list)
    used: list[CachedStage] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """The bundle's name: the model's, fit for a file name; of one without a single ASCII letter, `model`."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.source.name).strip("-")[: LONGEST_NAME - len(".dsr")] or "model"

    @cached_property
    def out(self) -> Path:
        return self.config.out if self.config.out is not None else Path(f"{self.name}.dsr")

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """The targets asked for, or the default one, which is said aloud."""
        if self.config.targets:
            return tuple(target(name) for name in dict.fromkeys(self.config.targets))
        chosen, reason = default_target()
        self.reporter.note(f"target: {chosen.name} ({reason})")
        return (chosen,)

    @property
    def engine_targets(self) -> tuple[Target, ...]:
        return tuple(each for each in self.targets if each.backend != "onnxruntime")

    @property
    def forms(self) -> tuple[FormName, ...]:
        """Of the graphs that the targets run; first that of `model.onnx`: ONNX Runtime's, where it is a target."""
        return tuple(form for form in FORMS if form in {form_of(each) for each in self.targets})

    def check_targets(self) -> None:
        """Fails at once, not after the trace, where a target lacks what is asked for, or can't be built here."""
        self.check_precisions(compute_capability())
        for each in self.engine_targets:
            check_buildable(each)

    def check_precisions(self, gpu: str | None) -> None:
        """Raises ExportError for a precision, the model's or a part's, that a target lacks. `gpu` is the compute
        capability of the one that is built on, where that is known. Loads nothing."""
        for each in self.targets:
            check_precision(each, self.config.precision, gpu)
            for role, precision in self.config.part_precision.items():
                check_precision(each, precision, gpu, of=role)

    @cached_property
    def runnable_targets(self) -> tuple[Target, ...]:
        """Those whose engines the GPU at hand runs; none without a GPU."""
        return tuple(each for each in self.engine_targets if runs_here(each))

    @cached_property
    def checks_cuda(self) -> bool:
        """Whether ONNX Runtime runs the graph on a GPU here; where a GPU is and it does not, the reason is said."""
        if not gpu_available():
            return False
        from dsr_export.backends.onnxruntime_cuda import cuda_problem

        problem = cuda_problem()
        if problem is not None:
            self.reporter.note(f"{problem}; the graph is checked on the CPU alone")
        return problem is None

    @cached_property
    def source(self) -> Source:
        """The model asked for; not loaded yet."""
        config = self.config
        told = {} if self.plan is None else {**self.plan.options, **config.options}
        return find_source(replace(config, options=told) if told else config)

    @property
    def components(self) -> dict[str, Bundle]:
        """The other models of the pipeline, by role: those that were given, and those built here."""
        return {**self.given_components, **self.parts}

    @cached_property
    def given_components(self) -> dict[str, Bundle]:
        """Bundles that go into this one, by role; opened and verified."""
        return open_components(self.config.components)

    @cached_property
    def plan(self) -> PipelinePlan | None:
        """What is built of the pipeline's folder beside its transformer; None where that alone is asked for."""
        config = self.config
        if not set(config.parts) - {TRANSFORMER} or config.model_dir is None:
            return None
        random, other = config.random_weights is not None, config.checkpoint is not None
        return plan_pipeline(config.model_dir, config.parts, config.options, random=random, other_transformer=other)

    @cached_property
    def walk(self) -> PipelineWalk | None:
        """What a quantised transformer is calibrated on, and what one of any precision is held against."""
        if self.is_quantized:
            return pipeline_walk(self.config, self.config.int8)
        return held_walk(self.config, self.plan, self.reporter.note)

    @cached_property
    def part_builds(self) -> dict[str, Build]:
        """The build of each part of the plan, by role."""
        if self.plan is None:
            return {}
        folder, targets = parts_folder(absolute(self.out)), tuple(each.name for each in self.targets)
        configs = part_configs(self.config, tuple(self.plan.parts), targets)
        return {
            role: Build(replace(each, out=folder / f"{role}.dsr"), self.reporter, known=self.known)
            for role, each in configs.items()
        }

    @cached_property
    def model(self) -> ModelAtHand:
        """The same, to be loaded by the stages that need it."""
        return ModelAtHand(self.source)

    @property
    def is_quantized(self) -> bool:
        return PRECISIONS[self.config.precision].quantized

    @cached_property
    def reads(self) -> dict[str, Any]:
        """JSON values that stand for everything the build reads: files and folders by content, wherever they lie."""
        config, plan = self.config, self.plan
        model = [*(getattr(config, each.name) for each in fields(ModelRequest)), config.parts]
        return {
            "subject": self._once(["subject", model], lambda: self.model.stage_key()),
            "components": self._once(["components", config.components], self._component_digests),
            "int8": self._once(["int8", config.int8], config.int8.stage_key) if self.is_quantized else None,
            "walk": None if self.walk is None else self.walk.stage_key(),
            "pipeline": None if plan is None else self._once(["pipeline", model], plan.key),
            "parts": {role: part.reads for role, part in self.part_builds.items()},
        }

    def _once(self, named: list[Any], read: Callable[[], Any]) -> Any:
        if (name := repr(named)) not in self.known:
            self.known[name] = read()
        return self.known[name]

    def _component_digests(self) -> dict[str, str]:
        return {role: component.manifest.digest for role, component in self.given_components.items()}

    @cached_property
    def key(self) -> str:
        """Digest of everything the bundle depends on; equal keys mean that there is nothing to do."""
        read = ("checkpoint", "config_file", "dsr", "loras", "model_dir", "components", "int8")
        options = dataclasses.asdict(self.config) | dict.fromkeys((*read, "out")) | {"force": False}
        targets = [each.name for each in self.targets]
        checked = [*(each.name for each in self.runnable_targets), *(["onnxruntime-cuda"] if self.checks_cuda else [])]
        parts = {role: part.key for role, part in self.part_builds.items()}
        asked = {"options": options, "targets": [targets, checked], "reads": self.reads, "parts": parts}
        return canonical_digest(stage_key({**asked, **self._tools}))

    @cached_property
    def _tools(self) -> dict[str, Any]:
        return {"tools": tool_versions(), "source": source_digest()}

    def run(self, stage: Stage[R]) -> R:
        """Runs one stage, or takes it from the cache, under a progress bar, and logs it."""
        began = time.monotonic()
        with self.reporter.stage(stage.name) as bar, PeakMemory() as memory:
            made = StageCache.default().run(
                stage.name, self.identity(stage), lambda folder: self._work(stage, folder, bar)
            )
        if made.remade:
            self.reporter.note(f"the cached result of '{stage.name}' was damaged and has been made again")
        self.used.append(made)
        seconds = round(time.monotonic() - began, 3)
        self.log.append(StageTime(name=stage.name, seconds=seconds, cached=made.cached, peak_rss_bytes=memory.bytes))
        return stage.result(made)

    def identity(self, stage: Stage[Any]) -> dict[str, Any]:
        """What a stage's result is known by in the cache: its fields, and what has made it."""
        return {"fields": stage.key(), "by": self._tools}

    def _work(self, stage: Stage[Any], folder: Path, bar: Bar) -> None:
        """A stage that really runs reads what earlier ones left: no byte of that may have changed."""
        for earlier in self.used:
            if (damaged := earlier.damaged_file()) is not None:
                raise DamagedFile(damaged, hint="build again: the cache makes it again")
        stage.work(folder, bar)

    def start_over(self) -> bool:
        """Throws away the cached stages that are damaged; False where there are none, and nothing would change."""
        damaged = [stage for stage in self.used if stage.damaged_file() is not None]
        for stage in damaged:
            StageCache.default().drop(stage)
            self.reporter.note(f"{stage.path} was damaged in the cache and is made again")
        self.used.clear()
        self.log.clear()
        return bool(damaged)
