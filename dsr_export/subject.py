"""`Subject`: a loaded model with everything an export needs to know about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dsr_export.sampling import SamplerSpec
from dsr_export.spec import DsrSpec
from graphs.artifacts import TensorSpec

if TYPE_CHECKING:
    from torch import nn

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A PyTorch module (float32, eval mode, on the CPU) whose positional inputs are `inputs`, in order.

    `sampler` is None for models that are not denoisers. `config` holds constructor arguments (JSON values);
    `provenance` where the weights came from: `checkpoint_sha256`, or `random_seed`.
    """

    name: str
    family: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dsr: DsrSpec
    sampler: SamplerSpec | None = None
    num_classes: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def example(self, batch: int, *, seed: int) -> dict[str, Array]:
        """Seeded inputs: normal `x`, uniform `t`, random labels. Row i does not depend on `batch`."""
        rows = [self._row(np.random.default_rng([seed, i])) for i in range(batch)]
        return {spec.name: np.stack([row[spec.name] for row in rows]) for spec in self.inputs}

    def _row(self, rng: np.random.Generator) -> dict[str, Array]:
        row: dict[str, Array] = {}
        for spec in self.inputs:
            shape = spec.with_batch(1)[1:]
            if spec.dtype == "int64":
                row[spec.name] = rng.integers(0, max(self.num_classes, 1), shape)
            elif spec.name == "t":
                row[spec.name] = rng.uniform(0.02, 1.0, shape).astype(np.float32)
            else:
                row[spec.name] = rng.standard_normal(shape).astype(np.float32)
        return row
