"""`trace`: the model as an ONNX graph with `dsr` ops still symbolic, and its card."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from dsr_export.progress import Bar
from dsr_export.stages.model_at_hand import ModelAtHand
from dsr_export.stages.stage import MODEL, Result, Stage
from dsr_export.storage.cache import CachedStage
from dsr_export.subject import SubjectCard
from graphs.artifacts import TracedModel

CARD = "card.json"


@dataclass(frozen=True)
class Traced(Result):
    """The symbolic graph and what is known of the model."""

    @cached_property
    def card(self) -> SubjectCard:
        return SubjectCard.load(self.folder / CARD)

    @property
    def model(self) -> TracedModel:
        return TracedModel(path=self.folder / MODEL, sites=self.card.sites)


@dataclass(frozen=True, kw_only=True)
class TraceModel(Stage[Traced]):
    """The code may turn out to take fewer batches than were declared: the card has what the trace found."""

    name: ClassVar[str] = "trace"
    model: ModelAtHand

    def work(self, folder: Path, bar: Bar) -> None:
        subject = self.model.load()
        graph = subject.trace(folder / MODEL)
        limits = {"batch_limits": graph.batch_limits, "batch_reason": graph.batch_reason}
        dataclasses.replace(subject.card(), **limits).save(folder / CARD)  # type: ignore[arg-type]

    def result(self, made: CachedStage) -> Traced:
        return Traced(made)
