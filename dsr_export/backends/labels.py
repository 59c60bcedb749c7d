"""Labels that a model has an embedding for: an index outside wraps around or reads beyond, and no runtime says so."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import Runner
from dsr_export.backends.cuda.device_tensor import DeviceTensor, on_host
from dsr_export.bundle.manifest import Manifest
from dsr_export.errors import ExportError
from dsr_export.sampling import SamplerSpec

Array = npt.NDArray[Any]
LABELS = "y"


class LabelledRunner:
    """`runner` with its labels held against `highest`; everything else is the runner's own."""

    name: str

    def __init__(self, runner: Runner, highest: int) -> None:
        self._runner, self._highest, self.name = runner, highest, runner.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def __enter__(self) -> LabelledRunner:
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.__exit__(kind, error, trace)

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """As the runner's. Raises ExportError for a label that the model does not have, too."""
        self._check(inputs.get(LABELS, 0))
        return self._runner.infer(inputs)

    def infer_on_device(self, inputs: Mapping[str, Any]) -> dict[str, DeviceTensor]:
        """As the runner's. Labels that lie on the device already are not looked at: that would take a copy."""
        if on_host(labels := inputs.get(LABELS, 0)):
            self._check(labels)
        made: dict[str, DeviceTensor] = self._runner.infer_on_device(inputs)  # type: ignore[attr-defined]
        return made

    def _check(self, given: Any) -> None:
        check_labels(given, self._highest)


def check_labels(given: Any, highest: int, *, where: str = "") -> None:
    """Raises ExportError for a label outside 0 .. `highest`; `where` is what it begins with."""
    labels = np.asarray(given)
    if labels.size and labels.dtype.kind in "iu":
        wrong = labels[(labels < 0) | (labels > highest)]
        if wrong.size:
            raise ExportError(f"{where}input '{LABELS}' holds the label {wrong[0]}", hint=f"use 0 to {highest}")


def highest_label(classes: int, sampler: SamplerSpec | None) -> int | None:
    """The last class of a denoiser, or its null label where that is higher; None for a model without classes.

    Without a sampler of its own (DiT in diffusers) the null label is the row behind the classes.
    """
    null = classes if sampler is None else sampler.null_label
    return max(classes - 1, null or 0) if classes else None


def with_labels(runner: Runner, manifest: Manifest) -> Runner:
    """`runner`, for a denoiser with classes held to those that it has, and its null label."""
    highest = highest_label(int(manifest.model["num_classes"]), manifest.sampler_spec())
    if highest is None:
        return runner
    checked: Runner = LabelledRunner(runner, highest)
    return checked
