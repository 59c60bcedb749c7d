"""What a pipeline gives its transformer, kept as calibration data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dsr_export.backends.named_arrays import save_arrays
from dsr_export.errors import ExportError


class Recording:
    """Copies of the graph's inputs of each call, on the host."""

    def __init__(self) -> None:
        self._calls: list[dict[str, npt.NDArray[np.generic]]] = []

    def add(self, inputs: Mapping[str, Tensor]) -> None:
        """One call's."""
        self._calls.append({name: value.detach().cpu().numpy().copy() for name, value in inputs.items()})

    def write(self, file: Path) -> None:
        """The rows of all calls by name, [n, ...] each, as npz. ExportError where there was none."""
        if not self._calls:
            raise ExportError("the transformer was not called, so nothing is recorded", hint="draw within the block")
        save_arrays(file, {name: np.concatenate([call[name] for call in self._calls]) for name in self._calls[0]})
