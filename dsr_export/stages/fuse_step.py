"""`fuse-step`: guidance and the sampler's update put into the typed graph, so that one call is one step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dsr_export.progress import Bar
from dsr_export.sampling import SamplerSpec
from dsr_export.stages.stage import MODEL, Stage
from dsr_export.stages.type_graph import Typed
from dsr_export.storage.cache import CachedStage
from graphs.files import load_inferred_graph
from graphs.forms import save_forms
from graphs.sampling.fused_step import fuse_step


@dataclass(frozen=True, kw_only=True)
class FuseStep(Stage[Typed]):
    """Of the sampler, only whether it guides and by which label: its steps are an input of the graph."""

    name: ClassVar[str] = "fuse-step"
    source: Typed
    sampler: SamplerSpec

    def work(self, folder: Path, bar: Bar) -> None:
        graph = load_inferred_graph(self.source.model.path)
        fuse_step(graph, (self.sampler.null_label or 0) if self.sampler.guidance != 1.0 else None)
        save_forms(graph, folder / MODEL, self.source.form)

    def result(self, made: CachedStage) -> Typed:
        return Typed(made, self.source.precision, self.source.form)
