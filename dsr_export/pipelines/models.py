"""The models of a pipeline as they are drawn with: a bundle's, or PyTorch's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dsr_export.backends.base import Runner
from dsr_export.backends.opening import Say
from dsr_export.backends.runtime_names import Runtime
from dsr_export.config import BatchRange
from graphs.artifacts import TensorSpec


class ModelFacts(Protocol):
    """What is known of one model: `model["config"]` is its configuration."""

    @property
    def model(self) -> Mapping[str, Any]: ...
    def input_specs(self) -> Sequence[TensorSpec]: ...
    def batch_range(self) -> BatchRange: ...


class PipelineModel(Protocol):
    """The transformer, with the others as its components; below `path` lie the tokenizers, as in a bundle."""

    @property
    def path(self) -> Path: ...
    @property
    def manifest(self) -> ModelFacts: ...
    def runner(self, runtime: Runtime = "auto", *, say: Say | None = None) -> Runner: ...
    def component(self, role: str) -> PipelineModel: ...
