"""A text encoder in PyTorch that is loaded for prompts it has not seen, and remembers what it made of the others.

A walk asks again for every group of images, and an encoder is often larger than the transformer.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.config import BatchRange, ModelRequest
from dsr_export.sources import find_source
from dsr_export.subject import Described, Subject, require_module
from dsr_export.subjects.torch_runner import TorchRunner
from graphs.artifacts import TensorSpec

Array = npt.NDArray[Any]
ALONE = 1
"""A row at a time: what a prompt becomes must not depend on the others, whose number the sums of a batch round by."""


class Facts:
    """What a manifest says of a bundle, of a model that is run `rows` rows at a time and no more."""

    def __init__(self, described: Described, rows: int) -> None:
        self.model = {"config": described.config}
        self._inputs, self._rows = described.inputs, rows

    def input_specs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    def batch_range(self) -> BatchRange:
        return BatchRange(1, self._rows, self._rows)


class RememberingEncoder:
    """A `PipelineModel`, and its own runner. `request` names the part of the pipeline."""

    name = "torch"

    def __init__(self, path: Path, request: ModelRequest) -> None:
        self.path, self._request = path, request
        self._subject: Subject | None = self._load()
        self.manifest = Facts(self._subject, ALONE)
        self._known: dict[bytes, dict[str, Array]] = {}

    def runner(self, runtime: str = "auto", *, say: Any = None) -> RememberingEncoder:
        return self

    def component(self, role: str) -> RememberingEncoder:
        raise KeyError(role)

    def __enter__(self) -> RememberingEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._subject = None

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """As `Runner.infer`."""
        count = len(next(iter(inputs.values())))
        rows = [{name: value[i : i + 1] for name, value in inputs.items()} for i in range(count)]
        keys = [b"|".join(value.tobytes() for value in row.values()) for row in rows]
        fresh = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._known}
        if fresh:
            self._subject = self._subject or self._load()
            fed = {name: np.concatenate([row[name] for row in fresh.values()]) for name in inputs}
            made = TorchRunner(self._subject).infer(fed)
            for i, key in enumerate(fresh):
                self._known[key] = {name: value[i : i + 1] for name, value in made.items()}
        found = [self._known[key] for key in keys]
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}

    def _load(self) -> Subject:
        return require_module(find_source(self._request).load())
